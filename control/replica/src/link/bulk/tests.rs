use super::*;
use crate::link::envelope::HEADER;
use proptest::prelude::*;

const LIMITS: BulkLimits = BulkLimits { device_max: 4 << 20, ram_pages: 2048 };
const STALL: Duration = Duration::from_secs(5);

fn pages(numbers: &[u32]) -> Pages {
    let bytes = numbers.iter().flat_map(|n| (0..PAGE).map(move |at| (at as u32 ^ n.wrapping_mul(37)) as u8));
    Pages { numbers: numbers.to_vec(), bytes: bytes.collect() }
}

fn difference(epoch: u64, device: usize, numbers: &[u32]) -> Checkpoint {
    let device = (0..device).map(|at| (at * 7 + (at >> 20)) as u8).collect();
    let ram = Ram::Difference { base: RamDigest(1), pages: pages(numbers), digest: RamDigest(u128::MAX) };
    Checkpoint { id: CheckpointId { generation: 9, epoch }, device, ram }
}

fn streamed(epoch: u64, device: usize) -> Checkpoint {
    Checkpoint { ram: Ram::Streamed, ..difference(epoch, device, &[]) }
}

fn written(checkpoints: &[&Checkpoint]) -> (Vec<u8>, Vec<Sent>) {
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    let sent = checkpoints.iter().map(|checkpoint| writer.send(checkpoint, &mut |_| {}).unwrap()).collect();
    (std::mem::take(writer.get_mut()), sent)
}

/// All that a reader yields of these bytes, and the error it ends with.
fn read(bytes: &[u8]) -> (Vec<Carried>, LinkError) {
    let mut reader = BulkReader::new(bytes, LIMITS, STALL, STALL);
    let mut got = Vec::new();
    loop {
        match reader.receive() {
            Ok(carried) => got.push(carried),
            Err(error) => {
                assert!(matches!(reader.receive(), Err(LinkError::Protocol(_))), "an error is the end");
                return (got, error);
            }
        }
    }
}

/// The frames in a stream.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = HEADER + u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        let (frame, after) = rest.split_at(length);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

fn kind_of(frame: &[u8]) -> Kind {
    [Kind::Begin, Kind::Device, Kind::Pages, Kind::End, Kind::Seed, Kind::SeedEnd]
        .into_iter()
        .find(|kind| *kind as u16 == u16::from_be_bytes([frame[2], frame[3]]))
        .unwrap()
}

/// The same payloads in new envelopes: what a peer could send that knows the rules of envelopes.
fn enveloped<'a>(payloads: impl IntoIterator<Item = (Kind, &'a [u8])>) -> Vec<u8> {
    let mut writer = FrameWriter::new(Vec::new(), STALL);
    payloads.into_iter().for_each(|(kind, payload)| writer.send(kind, &[payload]).unwrap());
    std::mem::take(writer.get_mut())
}

#[test]
fn checkpoints_arrive_as_they_were_sent() {
    let many: Vec<u32> = (0..600).map(|n| n * 3).collect();
    let all = [difference(1, 100, &[0, 7]), difference(2, (1 << 20) + 5, &many), streamed(4, 3 << 20)];
    let all = [&all[0], &all[1], &all[2], &difference(5, 0, &[]), &streamed(9, 0)];
    let (bytes, sent) = written(&all);
    let (got, end) = read(&bytes);
    assert!(matches!(end, LinkError::Closed));
    let wanted: Vec<Carried> =
        all.iter().zip(sent).map(|(c, sent)| Carried::Checkpoint((*c).clone(), sent)).collect();
    assert_eq!(got, wanted);
}

#[test]
fn progress_is_told_up_to_the_length() {
    let mut told = Vec::new();
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    let sent = writer.send(&difference(1, 3 << 20, &[1, 2]), &mut |bytes| told.push(bytes)).unwrap();
    assert!(told.is_sorted() && told.last() == Some(&sent.length), "{told:?}");
}

#[test]
fn a_seed_arrives_and_may_repeat_pages() {
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    let many: Vec<u32> = (0..300).collect();
    writer.seed(&pages(&many)).unwrap();
    writer.seed(&pages(&[5])).unwrap();
    writer.seed_end(RamDigest(77)).unwrap();
    writer.send(&difference(1, 10, &[5]), &mut |_| {}).unwrap();
    let bytes = std::mem::take(writer.get_mut());
    let (got, _) = read(&bytes);
    assert_eq!(got.len(), 5);
    assert_eq!(got[0], Carried::Seed(pages(&many[..PAGES_A_FRAME])));
    assert_eq!(got[2..4], [Carried::Seed(pages(&[5])), Carried::SeedEnd(RamDigest(77))]);
}

#[test]
fn a_stream_cut_at_any_byte_yields_nothing_that_was_cut() {
    let (bytes, _) = written(&[&difference(1, 300, &[3, 4])]);
    for end in 0..bytes.len() {
        let (got, error) = read(&bytes[..end]);
        assert!(got.is_empty(), "cut at {end}: {error}");
        assert!(matches!(error, LinkError::Closed | LinkError::Io(_)), "cut at {end}: {error}");
    }
}

#[test]
fn a_frame_repeated_dropped_or_moved_is_refused() {
    let (bytes, _) = written(&[&difference(1, (2 << 20) + 9, &[3, 4]), &difference(2, 9, &[1])]);
    let frames = frames(&bytes);
    for at in 0..frames.len() {
        let mut repeated = frames.clone();
        repeated.insert(at, frames[at].clone());
        let mut dropped = frames.clone();
        dropped.remove(at);
        let mut moved = frames.clone();
        moved.swap(at, (at + 1) % frames.len());
        for broken in [repeated, dropped, moved] {
            let (got, error) = read(&broken.concat());
            let end_of_first = frames.iter().position(|frame| kind_of(frame) == Kind::End).unwrap();
            assert!(got.len() <= usize::from(at > end_of_first) + 1);
            assert!(!matches!(error, LinkError::Io(_)), "{error}");
            let whole = got.iter().all(|carried| match carried {
                Carried::Checkpoint(checkpoint, _) => {
                    *checkpoint == difference(1, (2 << 20) + 9, &[3, 4])
                        || *checkpoint == difference(2, 9, &[1])
                }
                _ => false,
            });
            assert!(whole);
        }
    }
}

#[test]
fn a_seed_repeated_dropped_or_moved_is_refused() {
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    (0..4).for_each(|n| writer.seed(&pages(&[n, n + 9])).unwrap());
    let frames = frames(&std::mem::take(writer.get_mut()));
    let repeated = [0, 1, 1, 2, 3];
    for order in [&repeated[..], &[0, 2, 3], &[0, 2, 1, 3], &[1, 2, 3], &[0, 1, 0, 2]] {
        let stream: Vec<u8> = order.iter().flat_map(|at| frames[*at].clone()).collect();
        let (got, error) = read(&stream);
        assert!(got.len() < order.len() && matches!(error, LinkError::Protocol(_)), "{order:?}: {error}");
    }
}

#[test]
fn pages_that_do_not_rise_are_refused() {
    for numbers in [[2, 1], [1, 1]] {
        let mut payload = Vec::new();
        head(&mut payload, &numbers);
        payload.extend_from_slice(&[0; 2 * PAGE]);
        let (got, error) = read(&enveloped([(Kind::Seed, &payload[..])]));
        assert!(got.is_empty() && matches!(error, LinkError::Protocol(_)), "{numbers:?}: {error}");
    }
}

#[test]
fn payloads_in_another_order_are_refused_even_in_good_envelopes() {
    let many: Vec<u32> = (0..600).collect();
    let (bytes, _) = written(&[&difference(1, (2 << 20) + 9, &many)]);
    let frames = frames(&bytes);
    let payloads: Vec<(Kind, &[u8])> =
        frames.iter().map(|frame| (kind_of(frame), &frame[HEADER..])).collect();
    assert_eq!(read(&enveloped(payloads.clone())).0.len(), 1, "the way of building them");
    for a in 0..payloads.len() {
        let mut repeated = payloads.clone();
        repeated.insert(a, payloads[a]);
        let mut dropped = payloads.clone();
        dropped.remove(a);
        let whole_before_it = usize::from(a == payloads.len() - 1);
        assert!(read(&enveloped(repeated)).0.len() <= whole_before_it, "repeated {a}");
        assert!(read(&enveloped(dropped)).0.is_empty(), "dropped {a}");
        for b in a + 1..payloads.len() {
            let mut swapped = payloads.clone();
            swapped.swap(a, b);
            assert!(read(&enveloped(swapped)).0.is_empty(), "swapped {a} and {b}");
        }
    }
    // The whole again, and an older one.
    for again in [1, 0] {
        let (other, _) = written(&[&difference(again, 4, &[])]);
        let other = self::frames(&other);
        let both = payloads.iter().copied().chain(other.iter().map(|f| (kind_of(f), &f[HEADER..])));
        let (got, error) = read(&enveloped(both));
        assert!(got.len() == 1 && matches!(error, LinkError::Protocol(_)), "epoch {again}: {error}");
    }
}

#[test]
fn what_is_announced_too_large_is_refused_before_memory_is_taken() {
    let begin = |device: u64, pages: u32, ram: u8| {
        let mut begin = [0; BEGIN];
        begin[15] = 1;
        begin[16..24].copy_from_slice(&device.to_be_bytes());
        begin[24..28].copy_from_slice(&pages.to_be_bytes());
        begin[28] = ram;
        begin
    };
    let cases: [(u64, u32, u8); 6] = [
        (LIMITS.device_max + 1, 0, 0),
        (u64::MAX, 0, 1),
        (0, LIMITS.ram_pages + 1, 1),
        (0, u32::MAX, 1),
        (0, 1, 0),
        (0, 0, 2),
    ];
    for (device, pages, ram) in cases {
        let bytes = enveloped([(Kind::Begin, &begin(device, pages, ram)[..])]);
        let mut reader = BulkReader::new(&bytes[..], LIMITS, STALL, STALL);
        assert!(matches!(reader.receive(), Err(LinkError::Protocol(_))), "{device} {pages} {ram}");
        assert!(reader.incoming().is_none());
    }
    // More than was announced.
    let bytes = enveloped([(Kind::Begin, &begin(3, 0, 0)[..]), (Kind::Device, b"four")]);
    assert!(matches!(read(&bytes).1, LinkError::Protocol(_)));
    let bytes = enveloped([(Kind::Begin, &begin(3, 0, 0)[..]), (Kind::Device, b"")]);
    assert!(matches!(read(&bytes).1, LinkError::Protocol(_)));
    // A page beyond RAM.
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    writer.seed(&pages(&[LIMITS.ram_pages])).unwrap();
    assert!(matches!(read(&std::mem::take(writer.get_mut())).1, LinkError::Protocol(_)));
    // A length beyond its kind's: refused at the header, before its payload is there.
    let mut header = enveloped([(Kind::SeedEnd, &[0; 16][..])])[..HEADER].to_vec();
    header[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(read(&header).1, LinkError::Protocol(_)));
}

#[test]
fn malformed_pages_are_not_sent() {
    let mut writer = BulkWriter::new(Vec::new(), STALL);
    let falling = Pages { numbers: vec![2, 1], bytes: vec![0; 2 * PAGE] };
    let short = Pages { numbers: vec![1], bytes: vec![0; 5] };
    for pages in [falling, short] {
        assert!(writer.seed(&pages).is_err());
    }
    assert!(writer.get_mut().is_empty());
}

/// Yields a few bytes at a time, and between them "nothing yet".
struct Halting<'a>(&'a [u8], usize, bool);

impl Read for Halting<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.2 = !self.2;
        if self.2 {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let n = self.1.min(to.len());
        self.0.read(&mut to[..n])
    }
}

#[test]
fn what_has_arrived_is_kept_while_it_is_quiet() {
    let checkpoint = difference(1, 300, &[3]);
    let (bytes, _) = written(&[&checkpoint]);
    let mut reader = BulkReader::new(Halting(&bytes, 100, false), LIMITS, STALL, STALL);
    let mut quiet = 0;
    let got = loop {
        match reader.receive() {
            Err(LinkError::Quiet) => quiet += 1,
            other => break other.unwrap(),
        }
    };
    assert!(quiet > 40, "{quiet}");
    assert!(matches!(got, Carried::Checkpoint(got, _) if got == checkpoint));
}

/// Yields a byte, slowly.
struct Dripping<'a>(&'a [u8], Duration);

impl Read for Dripping<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(self.1);
        self.0.read(&mut to[..1])
    }
}

#[test]
fn a_peer_that_drips_is_cut_off() {
    let (bytes, _) = written(&[&difference(1, 300, &[3])]);
    let slow = Dripping(&bytes, Duration::from_millis(5));
    let (quiet, stall) = (Duration::from_millis(20), Duration::from_millis(60));
    let mut reader = BulkReader::new(slow, LIMITS, quiet, stall);
    let began = std::time::Instant::now();
    let mut calls = 0;
    let error = loop {
        calls += 1;
        match reader.receive() {
            Err(LinkError::Quiet) => {}
            Err(error) => break error,
            Ok(_) => panic!("it cannot be whole"),
        }
    };
    assert!(matches!(error, LinkError::Io(_)), "{error}");
    assert!(calls > 1, "each call returns in its time");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_flipped_bit_is_found(at in 0usize..20_000, bit in 0u8..8) {
        let (mut bytes, sent) = written(&[&difference(1, 300, &[3, 4]), &difference(2, 300, &[5, 6])]);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let first = written(&[&difference(1, 300, &[3, 4])]).0.len();
        let (got, error) = read(&bytes);
        prop_assert!(!matches!(error, LinkError::Closed), "at {}", at);
        let whole = [Carried::Checkpoint(difference(1, 300, &[3, 4]), sent[0])];
        prop_assert_eq!(&got[..], if at < first { &[][..] } else { &whole[..] });
    }

    #[test]
    fn arbitrary_payloads_break_nothing(
        payloads in proptest::collection::vec(
            (0usize..6, proptest::collection::vec(any::<u8>(), 0..100)), 0..12)
    ) {
        let kinds = [Kind::Begin, Kind::Device, Kind::Pages, Kind::End, Kind::Seed, Kind::SeedEnd];
        let fitting = payloads.iter().filter(|(kind, payload)| payload.len() <= kinds[*kind].max());
        let bytes = enveloped(fitting.map(|(kind, payload)| (kinds[*kind], &payload[..])));
        let _ = read(&bytes);
    }

    #[test]
    fn arbitrary_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).0.is_empty());
    }
}
