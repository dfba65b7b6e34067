//! What the table of streams keeps, gives up and reports.

use super::*;

#[test]
fn a_flood_of_new_streams_displaces_none_that_lives() {
    let mut bench = Bench::sized(realtime(), 64);
    for ssrc in 0..16 {
        for n in 1..4 {
            bench.rtp(40000, n, ssrc);
        }
    }
    for flood in 1000..5000 {
        bench.now -= 20 * MS;
        bench.rtp(40000, 1, flood);
    }
    for ssrc in 0..16 {
        assert_eq!(bench.rtp(40000, 4, ssrc), 'b', "SSRC {ssrc}");
    }
    assert!(bench.streams().len() <= 64);
    bench.now += IDLE_NS;
    for flood in 5000..9000 {
        for n in 1..4 {
            bench.rtp(40000, n, flood);
        }
    }
    assert!(bench.streams().iter().all(|stream| stream.ssrc >= 1000), "silent ones make room");
}

#[test]
fn where_all_are_proven_a_new_one_is_held() {
    let mut bench = Bench::sized(realtime(), 8);
    for ssrc in 10..18 {
        (1..4).for_each(|n| assert_ne!(bench.rtp(40000, n, ssrc), 'h'));
    }
    assert_eq!(bench.run(1..5), "hhhh");
    for ssrc in 10..18 {
        assert_eq!(bench.rtp(40000, 4, ssrc), 'b', "SSRC {ssrc}");
    }
}

#[test]
fn a_flood_on_a_configured_port_displaces_no_proven_stream() {
    let mut bench = Bench::sized(media_ports(), 8);
    assert_eq!(bench.run(1..6), "bbbbb");
    for flood in 1000..3000 {
        bench.now -= 20 * MS;
        assert_eq!(bench.rtp(40000, 1, flood), 'b');
    }
    assert_eq!(bench.run([6]), "b");
    assert_eq!(bench.streams().iter().find(|s| s.ssrc == 7).unwrap().packets, 6);
}

#[test]
fn a_reference_that_outlives_its_stream_is_harmless() {
    let mut bench = Bench::sized(realtime(), 8);
    let old = bench.decide(&sample::udp(40000, 5004, &sample::rtp(1, 7))).media.unwrap();
    for ssrc in 100..200 {
        bench.rtp(40000, 1, ssrc);
    }
    bench.classifier.waiting(old.stream, 9999);
    bench.classifier.departed([old].into_iter(), bench.now);
    for ssrc in 192..200 {
        bench.rtp(40000, 2, ssrc);
        let Promote(stream) = bench.pass(&sample::udp(40000, 5004, &sample::rtp(3, ssrc))) else { panic!() };
        assert!(!bench.classifier.take_waiting(stream).positions().contains(&9999), "SSRC {ssrc}");
    }
    assert_eq!(bench.classifier.take_waiting(old.stream).positions(), []);
    assert!(bench.streams().iter().all(|stream| stream.quality.departed == 0 && stream.ssrc != 7));
    for wild in [0, 1, 7, u32::MAX] {
        bench.classifier.waiting(StreamRef(wild), 1);
        bench.classifier.take_waiting(StreamRef(wild));
        bench.classifier.departed([Media { stream: StreamRef(wild), ..old }].into_iter(), 1);
    }
}

#[test]
fn quality_is_that_of_departures() {
    let mut bench = Bench::new(PolicyName::HoldAll);
    for n in 0..100u16 {
        let decision = bench.decide(&sample::udp(40000, 5004, &sample::rtp(n, 7)));
        let left = bench.now / (400 * MS) * 400 * MS + 400 * MS;
        bench.classifier.departed(decision.media.into_iter(), left);
    }
    let report = &bench.streams()[0];
    assert_eq!(report.clock_rate, Some(8000));
    assert_eq!((report.quality.delta_max_ns, report.quality.departed), (400 * MS, 100));
    assert!((29 * MS..51 * MS).contains(&report.quality.jitter_ns));
    assert_eq!((report.quality.highest_sent, report.quality.lost), (Some(99), 0));
}

#[test]
fn a_dynamic_payload_type_shows_its_clock() {
    for (clock, expected) in [(48000u32, 48000), (90000, 90000), (16000, 16000), (44100, 44100), (0, 8000)] {
        let mut bench = Bench::new(realtime());
        for n in 0..300u32 {
            let mut payload = sample::rtp(n as u16, 7);
            payload[1] = 111;
            payload[4..8].copy_from_slice(&(u32::MAX - 4000).wrapping_add(n * clock / 50).to_be_bytes());
            let frame = sample::udp(40000, 5004, &payload);
            let decision = bench.decide(&frame);
            bench.classifier.departed(decision.media.into_iter(), bench.now);
            if n == 20 {
                assert_eq!(bench.streams()[0].clock_rate, None);
            }
        }
        let report = &bench.streams()[0];
        assert_eq!(report.clock_rate, Some(expected));
        assert!(clock == 0 || report.quality.jitter_ns < MS / 10, "{report:?}");
    }
}

#[test]
fn a_clock_is_not_guessed_from_packets_that_were_late() {
    let mut bench = Bench::new(realtime());
    for n in 0..200u32 {
        let mut payload = sample::rtp(n as u16, 7);
        payload[1] = 111;
        // 16 kHz, but the first packet was 300 ms late.
        payload[4..8].copy_from_slice(&(n * 320 + if n == 0 { 0 } else { 4800 }).to_be_bytes());
        bench.pass(&sample::udp(40000, 5004, &payload));
        assert!(matches!(bench.streams()[0].clock_rate, None | Some(16000)), "packet {n}");
    }
    assert_eq!(bench.streams()[0].clock_rate, Some(16000));
}
