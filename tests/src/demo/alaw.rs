//! G.711 A-law: what a call's packets are filled with.

/// Samples a second (RFC 3551, payload type 8).
pub(super) const RATE: u32 = 8000;

/// One sample of 13 bits in the top of an i16, as ITU-T G.711 table 1a encodes it, even bits inverted.
pub(super) fn encode(sample: i16) -> u8 {
    // Negative values mirror the positive ones: -1 is the first step below zero.
    let (sign, magnitude) = if sample >= 0 { (0x80, sample) } else { (0, !sample) };
    let magnitude = magnitude >> 4; // 11 bits of magnitude besides the sign, A-law's step being 16.
    let code = match magnitude {
        0..=15 => magnitude as u8,
        _ => {
            let exponent = 15 - magnitude.leading_zeros() - 3; // 32.. has exponent 2.
            (exponent as u8) << 4 | (magnitude >> (exponent - 1)) as u8 & 15
        }
    };
    (sign | code) ^ 0x55
}

/// A sine tone, one byte a sample, without an end.
#[derive(Debug)]
pub(super) struct Tone {
    hertz: f64,
    sample: u64,
}

impl Tone {
    /// A tone of so many periods a second.
    pub(super) fn new(hertz: f64) -> Tone {
        Tone { hertz, sample: 0 }
    }

    /// The next sample, a quarter of full scale.
    pub(super) fn next_sample(&mut self) -> u8 {
        let phase = self.sample as f64 * self.hertz / f64::from(RATE);
        self.sample += 1;
        encode(((phase * std::f64::consts::TAU).sin() * 8192.0) as i16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_recommendation_does() {
        // ITU-T G.711 table 1a: decision values and codes, even bits inverted.
        for (sample, code) in [
            (0, 0xd5),
            (-1, 0x55),
            (16, 0xd4),
            (255, 0xda),
            (256, 0xc5),
            (511, 0xca),
            (512, 0xf5),
            (1024, 0xe5),
            (16384, 0xa5),
            (32767, 0xaa),
            (-32768, 0x2a),
        ] {
            assert_eq!(encode(sample), code, "{sample}");
        }
    }

    #[test]
    fn a_tone_swings() {
        let mut tone = Tone::new(1000.0);
        let first: Vec<u8> = (0..8).map(|_| tone.next_sample()).collect();
        assert_eq!(first[0], 0xd5, "starts at zero");
        assert!(first.contains(&encode(8192)) && first.iter().any(|code| code & 0x80 == 0));
    }
}
