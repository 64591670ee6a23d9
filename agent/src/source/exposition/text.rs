//! The text format: `name{label="value"} number timestamp`.

use std::borrow::Cow;

/// Labels of one sample at most. No exporter comes near; what does is not read further.
const MOST_LABELS: usize = 256;

/// Blanks as the format knows them.
const BLANKS: [char; 2] = [' ', '\t'];

/// One sample. Names and values borrow from the text wherever it writes them plainly.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name of the metric.
    pub name: &'a str,
    /// Labels in the order of the text, each name once.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value.
    pub value: Value<'a>,
    /// When it was taken, in milliseconds since the epoch; most exporters leave it out.
    pub timestamp_ms: Option<i64>,
}

/// A value as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    text: &'a str,
    number: f64,
}

/// A line that is not one of the text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a text exposition")]
pub struct BadLine;

/// The samples of an exposition, in order. Comments and empty lines are passed over; whatever else is not a
/// sample is [`BadLine`], and the next line is read as if it had not been there.
pub fn samples(body: &[u8]) -> impl Iterator<Item = Result<Sample<'_>, BadLine>> {
    body.split(|&byte| byte == b'\n')
        .map(|line| line.trim_ascii())
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| sample(std::str::from_utf8(line).map_err(|_| BadLine)?))
}

impl Sample<'_> {
    /// The label of this name; one without text counts as not there, as it does in Prometheus.
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| *label == name);
        found.map(|(_, value)| value.as_ref()).filter(|value| !value.is_empty())
    }
}

impl<'a> Value<'a> {
    /// From its text; `None` if it is no number.
    fn parse(text: &'a str) -> Option<Self> {
        text.parse().ok().map(|number| Self { text, number })
    }

    /// The number, `NaN` and infinities included.
    pub fn number(&self) -> f64 {
        self.number
    }

    /// The whole number, exact where it was written as one: a double cannot hold every counter. `None` for
    /// fractions, what is negative and what does not fit.
    pub fn whole(&self) -> Option<u64> {
        let digits = self.text.strip_prefix('+').unwrap_or(self.text);
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return digits.parse().ok();
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to fit")]
        (self.number >= 0.0 && self.number < 1.8e19 && self.number.fract() == 0.0)
            .then_some(self.number as u64)
    }
}

impl PartialEq for Value<'_> {
    /// The same number, however written; `NaN` is like `NaN`.
    fn eq(&self, other: &Self) -> bool {
        self.number.total_cmp(&other.number).is_eq() && self.whole() == other.whole()
    }
}

fn sample(line: &str) -> Result<Sample<'_>, BadLine> {
    let (name, rest) = name(line, |c| c == ':')?;
    let (labels, rest) = match rest.trim_start_matches(BLANKS).strip_prefix('{') {
        Some(rest) => labels(rest)?,
        // Without labels, only a blank tells where the name ends.
        None if rest.starts_with(BLANKS) => (Vec::new(), rest),
        None => return Err(BadLine),
    };
    let mut words = rest.split(BLANKS).filter(|word| !word.is_empty());
    let value = words.next().and_then(Value::parse).ok_or(BadLine)?;
    let timestamp_ms = words.next().map(|word| word.parse().map_err(|_| BadLine)).transpose()?;
    match words.next() {
        None => Ok(Sample { name, labels, value, timestamp_ms }),
        Some(_) => Err(BadLine),
    }
}

/// A name at the start of the text, and what follows it.
fn name(text: &str, also: fn(char) -> bool) -> Result<(&str, &str), BadLine> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || also(c);
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        Err(BadLine)
    } else {
        Ok((name, rest))
    }
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Labels after the opening brace, and what follows the closing one.
fn labels(text: &str) -> Result<(Labels<'_>, &str), BadLine> {
    let mut labels: Labels<'_> = Vec::new();
    let mut rest = text.trim_start_matches(BLANKS);
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (label, after) = name(rest, |_| false)?;
        let after = after.trim_start_matches(BLANKS).strip_prefix('=').ok_or(BadLine)?;
        let after = after.trim_start_matches(BLANKS).strip_prefix('"').ok_or(BadLine)?;
        let (value, after) = quoted(after)?;
        if labels.len() == MOST_LABELS || labels.iter().any(|(other, _)| *other == label) {
            return Err(BadLine);
        }
        labels.push((label, value));
        rest = after.trim_start_matches(BLANKS);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(BLANKS),
            None if rest.starts_with('}') => {}
            None => return Err(BadLine),
        }
    }
}

/// A label's value after the opening quote, and what follows the closing one.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), BadLine> {
    let mut value = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let at = rest.find(['"', '\\']).ok_or(BadLine)?;
        let (plain, found) = rest.split_at(at);
        if value.is_empty() {
            value = Cow::Borrowed(plain);
        } else {
            value.to_mut().push_str(plain);
        }
        if let Some(after) = found.strip_prefix('"') {
            return Ok((value, after));
        }
        let mut escaped = found.chars();
        escaped.next();
        match escaped.next().ok_or(BadLine)? {
            'n' => value.to_mut().push('\n'),
            c @ ('"' | '\\') => value.to_mut().push(c),
            // No escape of the format; dcgm-exporter prints some labels as they came.
            c => value.to_mut().extend(['\\', c]),
        }
        rest = escaped.as_str();
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Expect) {
        let mut shown = String::new();
        for sample in samples(text.as_bytes()) {
            match sample {
                Ok(Sample { name, labels, value, timestamp_ms }) => {
                    write!(shown, "{name} {labels:?} {}", value.number()).expect("string");
                    timestamp_ms.iter().for_each(|at| write!(shown, " at {at}").expect("string"));
                }
                Err(_) => shown.push_str("bad"),
            }
            shown.push('\n');
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn samples_are_read_with_labels_escapes_and_timestamps() {
        check(
            "# HELP a What it is.\n\n  # TYPE a gauge\r\na 1\na{} 2\r\n\
             a:b{ x = \"1\" ,y=\"\",} 3e2 1700000000000\n\
             \ta{path=\"C:\\\\n \\\"q\\\" \\n\\x,}\"}\tNaN  -5\na{x=\"é\"}+Inf\na -Inf",
            expect![[r#"
                a [] 1
                a [] 2
                a:b [("x", "1"), ("y", "")] 300 at 1700000000000
                a [("path", "C:\\n \"q\" \n\\x,}")] NaN at -5
                a [("x", "é")] inf
                a [] -inf
            "#]],
        );
    }

    #[test]
    fn a_bad_line_is_skipped_and_the_next_one_is_read() {
        check(
            "a\na b\n1a 1\na.b 1\na1.5\n{x=\"1\"} 1\na{x=1} 1\na{x=\"1} 1\na{x=\"1\" y=\"2\"} 1\na{,} 1\n\
             a{x=\"1\",x=\"2\"} 1\na 1 2 3\na 1 soon\na 1 # {id=\"7\"} 1\na{x=\"\\\na{x:y=\"1\"} 1\na blank\nb 2\n",
            expect![[r#"
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                bad
                b [] 2
            "#]],
        );
    }

    #[test]
    fn bytes_that_are_no_text_spoil_their_own_line_only() {
        let shown: Vec<bool> = samples(b"a 1\na{x=\"\xff\"} 1\n\xc3\x28 2\nb 2").map(|s| s.is_ok()).collect();
        assert_eq!(shown, [true, false, false, true]);
    }

    #[test]
    fn more_labels_than_any_exporter_has_are_a_bad_line() {
        let line = |labels: usize| {
            let labels: String = (0..labels).map(|n| format!("l{n}=\"\",")).collect();
            samples(format!("a{{{labels}}} 1").as_bytes()).all(|sample| sample.is_ok())
        };
        assert!(line(MOST_LABELS));
        assert!(!line(MOST_LABELS + 1));
    }

    #[test]
    fn a_counter_beyond_what_a_double_holds_stays_exact() {
        let whole = |text| Value::parse(text).and_then(|value| value.whole());
        assert_eq!(whole("9007199254740993"), Some(9_007_199_254_740_993));
        assert_eq!(whole("+18446744073709551615"), Some(u64::MAX));
        assert_eq!(whole("1.5e+3"), Some(1500));
        for none in ["18446744073709551616", "0.5", "-1", "NaN", "+Inf", "1e300"] {
            assert_eq!(whole(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let lines = bytes.split(|&byte| byte == b'\n').count();
            prop_assert!(samples(&bytes).count() <= lines);
        }

        #[test]
        fn what_nearly_is_an_exposition_is_read_to_the_end(text in r#"([a-z_:{}="\\,# \t\n\r0-9.eE+é-]|NaN|\{x="|"\} 1\n){0,80}"#) {
            for sample in samples(text.as_bytes()).flatten() {
                prop_assert!(!sample.name.is_empty());
                prop_assert!(sample.labels.iter().all(|(name, _)| !name.is_empty()));
                sample.value.whole();
            }
        }

        #[test]
        fn what_is_written_is_read_back(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
            labels in proptest::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,8}", any::<String>(), 0..6),
            number in any::<f64>(),
            timestamp_ms in proptest::option::of(any::<i64>()),
        ) {
            let mut line = format!("{name}{{");
            for (label, value) in &labels {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                write!(line, "{label}=\"{value}\",").expect("string");
            }
            write!(line, "}} {number:?}").expect("string");
            if let Some(at) = timestamp_ms {
                write!(line, " {at}").expect("string");
            }
            let read: Vec<_> = samples(line.as_bytes()).collect();
            prop_assert_eq!(read.len(), 1);
            let sample = read[0].as_ref().expect("a sample");
            prop_assert_eq!(sample.name, name);
            prop_assert_eq!(sample.timestamp_ms, timestamp_ms);
            let same = sample.value.number() == number || number.is_nan() && sample.value.number().is_nan();
            prop_assert!(same);
            let read: Vec<_> = sample.labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
            let written: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(read, written);
        }
    }
}
