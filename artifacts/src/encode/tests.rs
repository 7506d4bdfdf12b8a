use proptest::prelude::*;

use super::*;

fn arbitrary() -> impl Strategy<Value = Value> {
    let decimal = (any::<i64>(), -400_i32..400).prop_map(|(m, e)| Decimal::new(i128::from(m), e).expect("in range"));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i128>().prop_map(Value::Int),
        (-300_i128..300).prop_map(Value::Int),
        any::<i64>().prop_map(Value::from),
        decimal.prop_map(Value::Decimal),
        ".{0,30}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(".{0,4}", inner, 0..8).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn every_value_reads_back_as_itself(value in arbitrary()) {
        prop_assert_eq!(Value::from_bytes(&value.to_bytes()), Ok(value));
    }

    #[test]
    fn distinct_values_have_distinct_bytes(a in arbitrary(), b in arbitrary()) {
        prop_assert_eq!(a == b, a.to_bytes() == b.to_bytes());
    }

    #[test]
    fn a_flipped_bit_is_refused_or_means_another_value(value in arbitrary(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let bytes = value.to_bytes();
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1_u8 << bit;
        if let Ok(other) = Value::from_bytes(&flipped) {
            prop_assert_ne!(&other, &value);
            prop_assert_eq!(other.to_bytes(), flipped);
        }
    }

    #[test]
    fn what_is_accepted_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(value) = Value::from_bytes(&bytes) {
            prop_assert_eq!(value.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_float_is_the_decimal_that_reads_back_as_it(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
        let decimal = Decimal::from_f64(x).expect("finite");
        prop_assert_eq!(decimal.to_f64(), x);
        prop_assert_eq!(decimal.to_string().parse::<Decimal>(), Ok(decimal));
    }

    #[test]
    fn differences_are_empty_exactly_for_equal_values(a in arbitrary(), b in arbitrary()) {
        prop_assert_eq!(differences(&a, &b).is_empty(), a == b);
    }
}

fn hex_of(value: &Value) -> String {
    hex::encode(value.to_bytes())
}

#[test]
fn encodings_equal_the_examples_of_rfc_8949() {
    // RFC 8949, appendix A, the rows that this data model has; 273.15 is its tag-4 example of §3.4.4.
    let text = |s: &str| Value::from(s);
    let rows: Vec<(Value, &str)> = vec![
        (Value::Int(0), "00"),
        (Value::Int(23), "17"),
        (Value::Int(24), "1818"),
        (Value::Int(100), "1864"),
        (Value::Int(1000), "1903e8"),
        (Value::Int(1_000_000), "1a000f4240"),
        (Value::Int(1_000_000_000_000), "1b000000e8d4a51000"),
        (Value::Int(18_446_744_073_709_551_615), "1bffffffffffffffff"),
        (Value::Int(18_446_744_073_709_551_616), "c249010000000000000000"),
        (Value::Int(-18_446_744_073_709_551_616), "3bffffffffffffffff"),
        (Value::Int(-18_446_744_073_709_551_617), "c349010000000000000000"),
        (Value::Int(-1), "20"),
        (Value::Int(-1000), "3903e7"),
        (Value::Bool(false), "f4"),
        (Value::Bool(true), "f5"),
        (Value::Null, "f6"),
        (Value::Bytes(vec![]), "40"),
        (Value::Bytes(vec![1, 2, 3, 4]), "4401020304"),
        (text(""), "60"),
        (text("IETF"), "6449455446"),
        (text("\u{fc}"), "62c3bc"),
        (Value::Array((1..=3).map(Value::Int).collect()), "83010203"),
        (Value::map::<&str>([]), "a0"),
        (Value::map([("a", Value::Int(1)), ("b", Value::Array(vec![Value::Int(2), Value::Int(3)]))]), "a26161016162820203"),
        (Value::Decimal("273.15".parse().expect("a decimal")), "c48221196ab3"),
    ];
    for (value, hex) in rows {
        assert_eq!(hex_of(&value), hex, "{value:?}");
        assert_eq!(Value::from_bytes(&hex::decode(hex).expect("hex")), Ok(value));
    }
}

#[test]
fn shorter_keys_come_first_whatever_the_order_of_insertion() {
    let forwards = Value::map([("b", Value::Int(1)), ("aa", Value::Int(2)), ("", Value::Null)]);
    let backwards = Value::map([("", Value::Null), ("aa", Value::Int(2)), ("b", Value::Int(1))]);
    assert_eq!(hex_of(&forwards), "a360f661620162616102");
    assert_eq!(forwards.to_bytes(), backwards.to_bytes());
}

#[test]
fn a_frozen_preimage_keeps_its_bytes_and_its_key() {
    // Frozen on 2026-11-22, and equal to what Python's cbor2 (canonical=True) and blake3 give. A change here discards every
    // cached result of every user: bump the schema instead.
    let json = serde_json::json!({
        "schema": 1, "kind": "dp-finetune", "params": {"epsilon": "8", "lr": 0.001, "epochs": 3, "frozen_a": true, "seed": null},
        "inputs": {"dataset": "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
    });
    let value = Value::from_json(&json).expect("no floats beyond decimals");
    assert_eq!(hex_of(&value), FROZEN_BYTES);
    assert_eq!(crate::records::ActionKey::of(&value).to_string(), FROZEN_KEY);
}

const FROZEN_BYTES: &str = "a4646b696e646b64702d66696e6574756e6566696e70757473a16764617461736574784362333a61663133343962396635663961316136\
    61303430346465613336646363393439396263623235633961646331313262376363396139336361653431663332363266706172616d73\
    a5626c72c48222016473656564f66665706f6368730367657073696c6f6e61386866726f7a656e5f61f566736368656d6101";
const FROZEN_KEY: &str = "b3:dc932cbd6429ec44c92df757f227ce7acc71a29665c95b16ea70871c99d50ed5";

#[test]
fn encodings_that_are_not_the_shortest_are_refused() {
    let refused = [
        ("1817", "a long head"),
        ("190018", "a long head"),
        ("1a0000ffff", "a long head"),
        ("1b00000000ffffffff", "a long head"),
        ("c24101", "a bignum that fits"),
        ("c24900ffffffffffffffff", "a bignum with a leading zero"),
        ("a2616201616101", "keys out of order"),
        ("a2616101616102", "a repeated key"),
        ("a26261610161620 1", "a longer key first"),
        ("c482200a", "a decimal with a trailing zero"),
        ("c4820100", "zero with an exponent"),
        ("5f4101ff", "an indefinite length"),
        ("f97c00", "a float"),
        ("fb3ff0000000000000", "a float"),
        ("f7", "undefined"),
        ("f8ff", "a simple value"),
        ("c11a514b67b0", "an unknown tag"),
        ("a10102", "a key that is no text"),
        ("61ff", "text that is not UTF-8"),
        ("", "nothing"),
        ("8201", "an array cut short"),
        ("0000", "two values"),
        ("9bffffffffffffffff", "a huge count"),
        ("5bffffffffffffffff", "a huge length"),
    ];
    for (hex, what) in refused {
        let bytes = hex::decode(hex.replace(' ', "")).expect("hex");
        assert!(Value::from_bytes(&bytes).is_err(), "{what}: {hex}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
    assert!(Value::from_bytes(&nested(MAX_DEPTH)).is_ok());
    assert!(matches!(Value::from_bytes(&nested(MAX_DEPTH + 1)), Err(DecodeError::TooDeep { .. })));
    assert!(matches!(Value::from_bytes(&nested(1_000_000)), Err(DecodeError::TooDeep { .. })));
}

#[test]
fn one_and_one_point_zero_are_different_parameters() {
    let of = |text: &str| Value::from_json(&serde_json::from_str(text).expect("JSON")).expect("finite");
    assert_ne!(of("1"), of("1.0"));
    assert_eq!(of("1.0"), of("1e0"));
    assert_eq!(of("1.50"), of("15e-1"));
    assert_eq!(of("-0.0"), of("0.0"));
}

#[test]
fn decimals_print_as_people_write_them() {
    for (text, printed) in
        [("0.001", "0.001"), ("1e-5", "0.00001"), ("12.50", "12.5"), ("3.0", "3.0"), ("-0.25", "-0.25"), ("1e30", "1e30")]
    {
        assert_eq!(text.parse::<Decimal>().expect("a decimal").to_string(), printed);
    }
    for text in ["", "-", ".5", "1.", "1e", "1e+", "NaN", "inf", "0x1", "1_000", "--1", "1e99999999999"] {
        assert!(text.parse::<Decimal>().is_err(), "{text:?}");
    }
    assert!(Decimal::from_f64(f64::NAN).is_err());
    assert!(Decimal::from_f64(f64::INFINITY).is_err());
}

#[test]
fn differences_name_the_field() {
    let of = |json: serde_json::Value| Value::from_json(&json).expect("finite");
    let left = of(serde_json::json!({"params": {"epsilon": "4", "lr": 1}, "inputs": ["a", "b"]}));
    let right = of(serde_json::json!({"params": {"epsilon": "8", "lr": 1}, "inputs": ["a"], "salt": 1}));
    let paths: Vec<_> = differences(&left, &right).into_iter().map(|d| d.path).collect();
    assert_eq!(paths, ["inputs[1]", "params.epsilon", "salt"]);
}

#[test]
fn json_for_people_shows_digests_and_numbers() {
    let digest = crate::digest::Digest::of(b"x");
    let value = Value::map([
        ("d", digest.into()),
        ("b", Value::Bytes(vec![0xab])),
        ("x", Value::Decimal("0.1".parse().expect("a decimal"))),
        ("n", Value::Int(7)),
    ]);
    assert_eq!(value.to_json(), serde_json::json!({"d": digest.to_string(), "b": "hex:ab", "x": 0.1, "n": 7}));
}
