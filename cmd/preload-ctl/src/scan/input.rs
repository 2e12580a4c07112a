//! Opening what is to be read.
//!
//! **Owns** files, standard input and compression.
//!
//! **How it works.** The first bytes tell whether an input is compressed; its name does not. Several gzip members or zstd
//! frames in a row are one input, as rotation tools write them. What is read from the file, before decompression, is
//! told to the progress bar.
//!
//! **Must not** read ahead without bound: a decoder needs what its format's window needs.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::PathBuf,
};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

/// Reads of at least this size go past this buffer into the scanner's.
const BUFFER_BYTES: usize = 128 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A frame that asks for a larger window is refused, as the zstd tool does. `--ultra --long=27` needs this much.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// As it is printed.
    pub(super) fn name(&self) -> String {
        match self {
            Source::Stdin => "-".to_owned(),
            Source::File(path) => path.display().to_string(),
        }
    }

    /// The bytes of the log, decompressed.
    pub(super) fn open(&self, bar: &ProgressBar) -> io::Result<Box<dyn Read>> {
        match self {
            Source::Stdin => decompressed(io::stdin(), bar),
            Source::File(path) => decompressed(File::open(path)?, bar),
        }
    }
}

fn decompressed(raw: impl Read + 'static, bar: &ProgressBar) -> io::Result<Box<dyn Read>> {
    let mut raw = bar.wrap_read(raw);
    let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
    raw.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
    let is = |expected: &[u8]| magic.starts_with(expected);
    let (is_gzip, is_zstd) = (is(GZIP_MAGIC), is(ZSTD_MAGIC));
    let whole = Cursor::new(magic).chain(raw);
    if is_gzip {
        Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, whole))))
    } else if is_zstd {
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(whole))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn read(raw: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        decompressed(Cursor::new(raw), &ProgressBar::hidden())?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn content_tells_the_compression_and_parts_are_joined() {
        let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
        assert_eq!(read([gzip("one"), gzip("two")].concat()).unwrap(), "onetwo");
        assert_eq!(read([zstd("one"), zstd("two")].concat()).unwrap(), "onetwo");
        for plain in ["", "a", "abcd", "plain text"] {
            assert_eq!(read(plain.into()).unwrap(), plain);
        }
    }

    #[test]
    fn truncated_file_is_an_error_after_its_beginning() {
        let mut raw = gzip(&"line\n".repeat(10_000));
        raw.truncate(raw.len() - 8);
        assert!(read(raw).is_err());
    }
}
