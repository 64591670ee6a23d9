//! Known accelerators: dense rates, clocks and how far to trust each figure.
//!
//! The figures are data (`data/accelerators.csv`), each row with source and confidence; the hash of that file
//! goes into the ledger, so that a changed table is a dated event and not a silent edit.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// A positive rational factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Above the line.
    pub numerator: u32,
    /// Below the line, never zero.
    pub denominator: u32,
}

impl Factor {
    /// The smaller one.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        let ours = u64::from(self.numerator) * u64::from(other.denominator);
        let theirs = u64::from(other.numerator) * u64::from(self.denominator);
        if theirs < ours { other } else { self }
    }
}

/// How well a row is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Two or more independent sources.
    A,
    /// One source, or secondary ones.
    B,
    /// From memory.
    C,
}

/// One accelerator model. Rates are dense and count a multiply-add as 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// `nvidia`, `amd` or `intel`.
    pub vendor: String,
    /// Name for people.
    pub name: String,
    /// As the driver prints it.
    pub device_name: String,
    /// PCI vendor and device, as in `10de:2330`.
    pub pci_device: String,
    /// As in `Hopper`.
    pub architecture: String,
    /// Streaming multiprocessors, compute units or matrix engines.
    pub units: u32,
    /// Clock at which the published peak holds.
    pub table_clock_mhz: u32,
    /// Highest clock that the driver allows.
    pub max_clock_mhz: u32,
    /// 16-bit matrix operations of the whole device in one clock, all units busy.
    pub ops_per_clock: u32,
    /// Slowest matrix format against 16 bit.
    pub low_format: Factor,
    /// Fastest matrix format against 16 bit.
    pub high_format: Factor,
    /// FP32 vector lanes of one unit; `None` where activity of vector pipes cannot be read.
    pub lanes_fp32: Option<u32>,
    /// Published dense peaks in hundredths of a teraoperation a second; `None` where unknown or unsupported.
    pub peaks: Peaks,
    /// Board power limit in watts.
    pub power_w: u32,
    /// Trust in the row.
    pub confidence: Confidence,
    /// Where the row is from.
    pub source: String,
    /// Columns that sources disagree about.
    pub uncertain: Vec<String>,
    /// What else to know.
    pub note: String,
}

/// Published dense peaks, in hundredths of a teraoperation a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// FP64 vector.
    pub fp64: Option<u32>,
    /// FP64 matrix.
    pub fp64_tensor: Option<u32>,
    /// FP32 vector.
    pub fp32: Option<u32>,
    /// TF32 matrix.
    pub tf32: Option<u32>,
    /// BF16 or FP16 matrix.
    pub bf16: Option<u32>,
    /// FP8 matrix.
    pub fp8: Option<u32>,
    /// FP4 matrix.
    pub fp4: Option<u32>,
    /// INT8 matrix.
    pub int8: Option<u32>,
}

/// The table, found by PCI device or driver name.
#[derive(Clone, Debug)]
pub struct AcceleratorTable {
    models: Vec<Model>,
    /// Where the first row of each PCI device (in lower case) and of each name is.
    by_pci: HashMap<String, usize>,
    by_name: HashMap<String, usize>,
    sha256: [u8; 32],
}

/// A row of the table cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("accelerator table, line {line}, column {column}: {value:?} is not {expected}")]
pub struct TableError {
    line: u64,
    column: String,
    value: String,
    expected: &'static str,
}

/// The table as shipped.
const SHIPPED: &str = include_str!("../data/accelerators.csv");

impl AcceleratorTable {
    /// The table that this build ships.
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).expect("a test parses the shipped table")
    }

    /// From CSV with the shipped columns.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let broken = |line: u64, value: String| TableError {
            line,
            column: "(all)".into(),
            value,
            expected: "a CSV row with as many fields as the header",
        };
        let headers = reader.headers().map_err(|error| broken(1, error.to_string()))?.clone();
        let mut models = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| {
                broken(error.position().map_or(0, csv::Position::line), error.to_string())
            })?;
            let line = record.position().map_or(0, csv::Position::line);
            models.push(Row { headers: &headers, record: &record, line }.model()?);
        }
        let (mut by_pci, mut by_name) = (HashMap::new(), HashMap::new());
        for (index, model) in models.iter().enumerate() {
            by_pci.entry(model.pci_device.to_ascii_lowercase()).or_insert(index);
            by_name.entry(model.device_name.clone()).or_insert(index);
        }
        Ok(Self { models, by_pci, by_name, sha256: Sha256::digest(text.as_bytes()).into() })
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// All rows, as in the file.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The row of a device: by PCI device, which is the safer key, else by the driver's name.
    pub fn find(&self, pci_device: Option<&str>, device_name: &str) -> Option<&Model> {
        // As drivers write it, it is in lower case.
        let by_pci = pci_device
            .and_then(|id| self.by_pci.get(id).or_else(|| self.by_pci.get(&id.to_ascii_lowercase())));
        self.models.get(*by_pci.or_else(|| self.by_name.get(device_name))?)
    }
}

impl Model {
    /// The most that the device can do in a millisecond, in operations: maximum clock, fastest format.
    pub fn peak_ops_per_ms(&self) -> u128 {
        Hardware::from(self).peak_ops_per_ms(self)
    }
}

impl Hardware<'_> {
    /// No accelerator is near this: a driver that says so is not believed.
    pub(crate) const FASTEST_CLOCK_MHZ: u32 = 5000;

    /// No accelerator has so many units: what says so is cut to it, and sums stay in range.
    const MOST_UNITS: u32 = 65_536;

    /// Its own units, if they are known.
    pub(crate) fn units(&self) -> Option<u32> {
        self.units.map(|units| units.min(Self::MOST_UNITS))
    }

    /// A part of a device, and nobody said how large.
    pub(crate) fn is_part_of_unknown_size(&self) -> bool {
        self.part && self.units.is_none()
    }

    /// The part of `model`'s `amount` that falls to this device's units: units divide what they share.
    pub(crate) fn part(&self, model: &Model, amount: u128) -> u128 {
        match self.units() {
            Some(units) => amount * u128::from(units) / u128::from(model.units),
            None => amount,
        }
    }

    /// The highest clock it can have: the table's, or the driver's where that is higher.
    pub(crate) fn max_clock_mhz(&self, model: &Model) -> u32 {
        let told = self.max_clock_mhz.filter(|&mhz| mhz <= Self::FASTEST_CLOCK_MHZ);
        told.map_or(model.max_clock_mhz, |mhz| mhz.max(model.max_clock_mhz))
    }

    /// The most that it can do in a millisecond, in operations, if it is of this model.
    pub(crate) fn peak_ops_per_ms(&self, model: &Model) -> u128 {
        let cycles = u128::from(self.max_clock_mhz(model)) * 1000;
        let fastest = cycles * u128::from(model.ops_per_clock) * u128::from(model.high_format.numerator)
            / u128::from(model.high_format.denominator);
        self.part(model, fastest)
    }
}

/// A device as far as estimates depend on it: its model, and where it differs from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardware<'a> {
    /// `None`: not in the table.
    pub model: Option<&'a Model>,
    /// Units that are its own, where that is a part of the whole: a MIG instance, a partition.
    pub units: Option<u32>,
    /// Whether it is a part of a device, with or without its units being known.
    pub part: bool,
    /// The highest SM clock that its driver allows.
    pub max_clock_mhz: Option<u32>,
    /// Format of its matrix work as somebody declared it.
    pub declared: Option<Format>,
}

impl<'a> From<Option<&'a Model>> for Hardware<'a> {
    fn from(model: Option<&'a Model>) -> Self {
        Self { model, ..Self::default() }
    }
}

impl<'a> From<&'a Model> for Hardware<'a> {
    fn from(model: &'a Model) -> Self {
        Some(model).into()
    }
}

/// A number format of matrix work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 64 bit floating point.
    Fp64,
    /// 32 bit floating point, on vector pipes.
    Fp32,
    /// TF32.
    Tf32,
    /// BF16 or FP16.
    Bf16,
    /// FP8.
    Fp8,
    /// FP4.
    Fp4,
    /// INT8.
    Int8,
}

impl Format {
    /// From its usual name, in any case: `bf16`, `FP8`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "fp64" | "float64" => Self::Fp64,
            "fp32" | "float32" => Self::Fp32,
            "tf32" => Self::Tf32,
            "bf16" | "bfloat16" | "fp16" | "float16" => Self::Bf16,
            "fp8" | "float8" => Self::Fp8,
            "fp4" | "nvfp4" | "mxfp4" => Self::Fp4,
            "int8" => Self::Int8,
            _ => return None,
        })
    }
}

impl Peaks {
    /// The matrix peak of a format, or the vector peak where there are no matrix units for it.
    pub fn of(&self, format: Format) -> Option<u32> {
        match format {
            Format::Fp64 => self.fp64_tensor.or(self.fp64),
            Format::Fp32 => self.fp32,
            Format::Tf32 => self.tf32,
            Format::Bf16 => self.bf16,
            Format::Fp8 => self.fp8,
            Format::Fp4 => self.fp4,
            Format::Int8 => self.int8,
        }
    }
}

struct Row<'a> {
    headers: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
    line: u64,
}

impl Row<'_> {
    fn text(&self, column: &'static str) -> Result<&str, TableError> {
        let index = self.headers.iter().position(|header| header == column);
        index
            .and_then(|index| self.record.get(index))
            .ok_or_else(|| self.bad(column, "", "a column of the table"))
    }

    fn bad(&self, column: &str, value: &str, expected: &'static str) -> TableError {
        TableError { line: self.line, column: column.into(), value: value.into(), expected }
    }

    fn owned(&self, column: &'static str) -> Result<String, TableError> {
        self.text(column).map(Into::into)
    }

    fn positive(&self, column: &'static str) -> Result<u32, TableError> {
        let text = self.text(column)?;
        match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(self.bad(column, text, "a positive whole number")),
        }
    }

    fn factor(&self, column: &'static str) -> Result<Factor, TableError> {
        let text = self.text(column)?;
        let (above, below) = text.split_once('/').unwrap_or((text, "1"));
        match (above.parse(), below.parse()) {
            (Ok(numerator), Ok(denominator)) if numerator > 0 && denominator > 0 => {
                Ok(Factor { numerator, denominator })
            }
            _ => Err(self.bad(column, text, "a positive factor such as 2 or 1/2")),
        }
    }

    /// Zero means unsupported, empty unknown: neither gives a rate.
    fn peak(&self, column: &'static str) -> Result<Option<u32>, TableError> {
        let text = self.text(column)?;
        let expected = "a rate in TFLOP/s with at most two decimals, 0 if unsupported, empty if unknown";
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        if text.is_empty() {
            return Ok(None);
        }
        if decimals.len() > 2 {
            return Err(self.bad(column, text, expected));
        }
        let hundredths = format!("{whole}{decimals:0<2}");
        let rate: u32 = hundredths.parse().map_err(|_| self.bad(column, text, expected))?;
        Ok((rate > 0).then_some(rate))
    }

    fn model(&self) -> Result<Model, TableError> {
        let confidence = match self.text("confidence")? {
            "A" => Confidence::A,
            "B" => Confidence::B,
            "C" => Confidence::C,
            other => return Err(self.bad("confidence", other, "A, B or C")),
        };
        let lanes = self.text("lanes_fp32")?;
        let source = self.owned("source")?;
        if source.is_empty() {
            return Err(self.bad("source", "", "where the row is from"));
        }
        Ok(Model {
            vendor: self.owned("vendor")?,
            name: self.owned("model")?,
            device_name: self.owned("device_name")?,
            pci_device: self.owned("pci_device")?,
            architecture: self.owned("architecture")?,
            units: self.positive("units")?,
            table_clock_mhz: self.positive("table_clock_mhz")?,
            max_clock_mhz: self.positive("max_clock_mhz")?,
            ops_per_clock: self.positive("ops_per_clock")?,
            low_format: self.factor("low_format")?,
            high_format: self.factor("high_format")?,
            lanes_fp32: if lanes.is_empty() { None } else { Some(self.positive("lanes_fp32")?) },
            peaks: Peaks {
                fp64: self.peak("tera_fp64")?,
                fp64_tensor: self.peak("tera_fp64_tensor")?,
                fp32: self.peak("tera_fp32")?,
                tf32: self.peak("tera_tf32")?,
                bf16: self.peak("tera_bf16")?,
                fp8: self.peak("tera_fp8")?,
                fp4: self.peak("tera_fp4")?,
                int8: self.peak("tera_int8")?,
            },
            power_w: self.positive("power_w")?,
            confidence,
            source,
            uncertain: self.text("uncertain")?.split(';').filter(|s| !s.is_empty()).map(Into::into).collect(),
            note: self.owned("note")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_has_forty_eight_rows_each_with_its_source() {
        let table = AcceleratorTable::parse(SHIPPED).expect("the shipped table parses");
        assert_eq!(table.models().len(), 48);
        assert!(table.models().iter().all(|model| !model.source.is_empty()));
    }

    #[test]
    fn units_and_clock_reproduce_the_published_16_bit_peak_within_3_percent() {
        for model in AcceleratorTable::shipped().models() {
            let Some(peak) = model.peaks.bf16 else { panic!("{} has no 16-bit peak", model.name) };
            let peak = u64::from(peak) * 10_000_000_000;
            let ours = u64::from(model.ops_per_clock) * u64::from(model.table_clock_mhz) * 1_000_000;
            assert!(ours.abs_diff(peak) * 100 <= peak * 3, "{}: {ours} against {peak}", model.name);
        }
    }

    #[test]
    fn a_device_is_found_by_pci_id_before_name() {
        let table = AcceleratorTable::shipped();
        let found = |pci, name| table.find(pci, name).map(|model| model.name.as_str());
        assert_eq!(found(Some("10DE:2330"), "NVIDIA A10"), Some("H100 SXM5"));
        assert_eq!(found(None, "NVIDIA A10"), Some("A10"));
        assert_eq!(found(Some("10de:ffff"), "NVIDIA Unheard Of"), None);
    }

    #[test]
    fn a_bad_cell_is_named_with_line_column_and_expectation() {
        let bad = SHIPPED.replacen(",1380,1380,", ",1380,fast,", 1);
        let error = AcceleratorTable::parse(&bad).expect_err("the clock is not a number").to_string();
        assert_eq!(
            error,
            r#"accelerator table, line 2, column max_clock_mhz: "fast" is not a positive whole number"#
        );
    }
}
