//! The head of every report: one file that needs nothing else.

use maud::{Markup, PreEscaped, html};

/// The `head` of a page of this title, its style in it.
pub fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (title) }
            style { (PreEscaped(include_str!("testbed/page.css"))) }
        }
    }
}
