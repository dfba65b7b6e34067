//! What the figures of a run are meant to be, beside what they are. An aim that is missed is told, and is no fault: how
//! long things take is the machine's to say, too.

use serde_json::{Value, json};

/// One aim: the figure's name in the report, which of its values, and the most that it should be.
struct Aim {
    figure: &'static str,
    of: &'static str,
    most: f64,
}

const AIMS: [Aim; 6] = [
    Aim { figure: "outage_ms", of: "median", most: 200.0 },
    Aim { figure: "outage_ms", of: "max", most: 400.0 },
    Aim { figure: "detect_decide_ms", of: "max", most: 120.0 },
    Aim { figure: "load_run_ms", of: "max", most: 60.0 },
    Aim { figure: "own_share_ms", of: "max", most: 5.0 },
    Aim { figure: "pause_ms", of: "median", most: 25.0 },
];

/// All of them beside a report's figures: `{"figure", "of", "aim", "is", "met"}` each.
pub fn beside(report: &Value) -> Value {
    let told = AIMS.iter().map(|aim| {
        let is = report[aim.figure][aim.of].as_f64();
        let met = is.map(|is| is <= aim.most);
        json!({ "figure": aim.figure, "of": aim.of, "aim": aim.most, "is": is, "met": met })
    });
    told.collect()
}

/// The same in lines for people.
pub fn lines(beside: &Value) -> Vec<String> {
    let line = |aim: &Value| {
        let verdict = match aim["met"].as_bool() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let figure = aim["figure"].as_str().unwrap_or("").trim_end_matches("_ms").replace('_', " ");
        format!(
            "{:>14} {:>6}: {} ms, aim {} ms: {verdict}",
            figure,
            aim["of"].as_str().unwrap_or(""),
            aim["is"],
            aim["aim"]
        )
    };
    beside.as_array().into_iter().flatten().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_missed_or_not_measured() {
        let told = beside(&json!({ "outage_ms": { "median": 200.0, "max": 400.5 }, "own_share_ms": null }));
        let verdicts: Vec<_> = told.as_array().expect("a list").iter().map(|aim| &aim["met"]).collect();
        assert_eq!(verdicts[..3], [&json!(true), &json!(false), &Value::Null]);
        let lines = lines(&told);
        assert!(
            lines[1].contains("outage") && lines[1].contains("400.5 ms") && lines[1].contains("MISSED"),
            "{lines:?}"
        );
        assert!(lines[4].contains("own share") && lines[4].contains("not measured"), "{lines:?}");
    }
}
