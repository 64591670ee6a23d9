//! Looking for what must not have been written: all bytes of a folder, and a text in them.

use std::{fs, io::Read, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Whether the text is in the bytes.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The contents of every file below a folder; a file that cannot be read is empty.
pub fn files_below(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(_) => found.push(fs::read(entry.path()).unwrap_or_default()),
            Err(_) => {}
        }
    }
    found
}

/// A search that also looks into what is compressed and what is written in other letters.
#[derive(Debug)]
pub struct Planted;

impl Planted {
    /// Whether a text is in any of these: as it is, in capitals or small letters, in JSON's escapes, in UTF-16, in
    /// base64, in hexadecimal digits, or in anything of it that is compressed.
    pub fn in_any(contents: &[Vec<u8>], text: &str) -> bool {
        contents.iter().any(|bytes| {
            Self::written_in(bytes, text)
                || decompressed(bytes).iter().any(|inner| Self::written_in(inner, text))
        })
    }

    fn written_in(bytes: &[u8], text: &str) -> bool {
        let lower = bytes.to_ascii_lowercase();
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let escaped: String = text
            .chars()
            .flat_map(|character| match character.is_ascii() {
                true => vec![character.to_string()],
                false => {
                    character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                }
            })
            .collect();
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        let spellings = [text.to_ascii_lowercase(), escaped.to_ascii_lowercase(), hex];
        spellings.iter().any(|spelling| holds(&lower, spelling))
            || holds_bytes(bytes, &wide)
            || in_base64(text).iter().any(|spelling| holds(bytes, spelling))
    }
}

fn holds_bytes(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// What of a text is the same in base64 wherever it begins: at each of three places in a group.
fn in_base64(text: &str) -> Vec<String> {
    let spelled = (0..3).map(|before| {
        let padded = [vec![b' '; before], text.as_bytes().to_vec()].concat();
        let whole = padded.len() / 3 * 3;
        // The first group holds what stands before it, and what is left over what comes after.
        let from = if before == 0 { 0 } else { 4 };
        BASE64.encode(&padded[..whole])[from..].to_owned()
    });
    spelled.filter(|spelling| spelling.len() >= 8).collect()
}

/// Everything in it that begins as something compressed does and can be read.
fn decompressed(bytes: &[u8]) -> Vec<Vec<u8>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let begins = bytes.windows(4).enumerate().filter(|(_, window)| *window == ZSTD);
    let read = begins.filter_map(|(at, _)| {
        let mut inner = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(&bytes[at..]).ok()?.single_frame();
        // A piece of something is looked at as far as it goes.
        drop(decoder.take(64 << 20).read_to_end(&mut inner));
        Some(inner)
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_it_is_written() {
        let text = "Zinovia Ä";
        let json = br#"{"a":"Zinovia \u00c4"}"#.to_vec();
        let hex: String = format!("0a{}", text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>());
        let zstd = |bytes: &[u8]| {
            [b"before".to_vec(), zstd::encode_all(bytes, 3).unwrap(), b"after".to_vec()].concat()
        };
        let mut written = vec![
            text.to_uppercase().into_bytes(),
            json,
            hex.into_bytes(),
            text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            zstd(text.as_bytes()),
            zstd(&zstd(b"nothing").repeat(2)).into_iter().chain(text.bytes()).collect(),
        ];
        written.extend(
            (0..3).map(|before| BASE64.encode(format!("{}{text} and more", "x".repeat(before))).into_bytes()),
        );
        for bytes in written {
            assert!(
                Planted::in_any(std::slice::from_ref(&bytes), text),
                "{}",
                String::from_utf8_lossy(&bytes)
            );
        }
        assert!(!Planted::in_any(&[b"Zinovia".to_vec(), zstd(b"Zinovia")], text));
    }
}
