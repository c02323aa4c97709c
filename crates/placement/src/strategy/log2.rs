//! Binary logarithms in fixed point: exact to the last bit everywhere, unlike `f64::ln`, whose
//! result is the platform's.

/// Bits behind the point.
const FRACTION_BITS: u32 = 32;
/// Bits of the table's index; between its entries the logarithm is interpolated, which is off by less
/// than 2^-18 of a bit.
const INDEX_BITS: u32 = 8;

/// `log2(1 + i / 2^INDEX_BITS)`.
const TABLE: [u64; (1 << INDEX_BITS) + 1] = table();

const fn table() -> [u64; (1 << INDEX_BITS) + 1] {
    let mut table = [0; (1 << INDEX_BITS) + 1];
    let mut i = 0;
    while i <= 1 << INDEX_BITS {
        table[i] = log2_of(i as u128);
        i += 1;
    }
    table
}

/// One bit of the logarithm for each squaring of the mantissa.
const fn log2_of(index: u128) -> u64 {
    const ONE: u128 = 1 << 63;
    let mut mantissa = ONE + (index << (63 - INDEX_BITS));
    let mut log = 0u64;
    if mantissa == 2 * ONE {
        return 1 << FRACTION_BITS;
    }
    let mut bit = 0;
    while bit < FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        log <<= 1;
        if mantissa >= 2 * ONE {
            mantissa >>= 1;
            log |= 1;
        }
        bit += 1;
    }
    log
}

/// `-log2(x / 2^64)` in units of 2^-32; 0 counts as 1.
pub(super) fn negative_log2(x: u64) -> u64 {
    let x = x.max(1);
    let exponent = u64::from(x.ilog2());
    // The bits behind the leading one, at the top of the word.
    let mantissa = x << x.leading_zeros() << 1;
    let index = usize::try_from(mantissa >> (64 - INDEX_BITS)).unwrap_or(0);
    let rest = (mantissa << INDEX_BITS) >> FRACTION_BITS;
    let (low, high) = (TABLE[index], TABLE[index + 1]);
    let fraction = low + (((high - low) * rest) >> FRACTION_BITS);
    (64 << FRACTION_BITS) - (exponent << FRACTION_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_textbook() {
        let unit = (1u64 << 32) as f64;
        for x in [
            1u64,
            2,
            3,
            5,
            1 << 20,
            12_345_678_901,
            u64::MAX / 3,
            u64::MAX,
        ] {
            let expected = 64.0 - (x as f64).log2();
            let found = negative_log2(x) as f64 / unit;
            assert!((expected - found).abs() < 1e-5, "{x}: {expected} {found}");
        }
        assert_eq!(negative_log2(0), 64 << 32);
        assert_eq!(negative_log2(1 << 63), 1 << 32);
    }

    #[test]
    fn greater_numbers_have_smaller_scores() {
        let mut before = u64::MAX;
        for step in 1..100_000u64 {
            let now = negative_log2(step << 40);
            assert!(now <= before);
            before = now;
        }
    }
}
