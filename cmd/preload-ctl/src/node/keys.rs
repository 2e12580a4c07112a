//! Keys and values, as people type and read them.
//!
//! **Owns** the two forms: text with escapes (`t\x00\x01`, `\\`, `\n`, `\r`, `\t`, `\0`), and `hex:` with digits.
//!
//! **Invariants.** What is printed can be typed again and gives the same bytes. It is printable ASCII.

use std::fmt::Write as _;

/// Bytes that were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ParseKeyError {
    #[error("after hex: an even number of hexadecimal digits is expected")]
    Hex,
    #[error("\\{0} is no escape; there are \\xNN, \\\\, \\n, \\r, \\t and \\0")]
    Escape(String),
}

pub(crate) fn parse(text: &str) -> Result<Bytes, ParseKeyError> {
    if let Some(digits) = text.strip_prefix("hex:") {
        return decode(digits).map(Bytes).ok_or(ParseKeyError::Hex);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match chars.next() {
            Some('\\') => b'\\',
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('0') => 0,
            Some('x') => {
                let digits = chars.as_str().get(..2).and_then(decode);
                match digits.as_deref() {
                    Some([byte]) => {
                        chars = chars.as_str()[2..].chars();
                        *byte
                    }
                    _ => return Err(ParseKeyError::Escape("x".to_owned())),
                }
            }
            other => return Err(ParseKeyError::Escape(other.map(String::from).unwrap_or_default())),
        });
    }
    Ok(Bytes(bytes))
}

/// Hexadecimal digits, as the node takes and gives them.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// What the node gave as hexadecimal digits, to be read; what is redacted stays.
pub(crate) fn shown(hex: &str) -> String {
    match decode(hex) {
        Some(bytes) => print(&bytes),
        None => hex.chars().filter(|c| !c.is_control()).collect(),
    }
}

/// Text with escapes; `hex:` if most of it would be escapes.
pub(crate) fn print(bytes: &[u8]) -> String {
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    let plain = bytes.iter().filter(|byte| is_plain(**byte)).count();
    if plain * 2 < bytes.len() {
        return format!("hex:{}", to_hex(bytes));
    }
    // A key that begins like the other form must not be taken for it.
    let must_escape_first = bytes.starts_with(b"hex:");
    let mut text = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        match *byte {
            b'\\' => text.push_str("\\\\"),
            byte if is_plain(byte) && !(at == 0 && must_escape_first) => text.push(char::from(byte)),
            byte => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

fn decode(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_read() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("a b", b"a b"),
            ("t\\x00\\xfF\\0", b"t\0\xff\0"),
            ("\\\\\\n\\r\\t", b"\\\n\r\t"),
            ("hex:", b""),
            ("hex:00fF", b"\0\xff"),
            ("ä", "ä".as_bytes()),
        ] {
            assert_eq!(parse(text), Ok(Bytes(bytes.to_vec())), "{text}");
        }
        for bad in ["hex:0", "hex:zz", "hex:+1", "\\", "\\q", "\\x1", "\\xä0", "\\x+1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_printed_readably() {
        assert_eq!(print(b"row\0"), "row\\x00");
        assert_eq!(print(b"\0\x01\x02a"), "hex:00010261");
        assert_eq!(print(b"hex:00"), "\\x68ex:00");
        assert_eq!((shown("6162").as_str(), shown("?").as_str(), shown("").as_str()), ("ab", "?", ""));
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_typed(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = print(&bytes);
            prop_assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            prop_assert_eq!(parse(&text), Ok(Bytes(bytes)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
