//! What a field of a statement can hold, and how it is written.

use weighbridge_meter::{Operations, UtcMillis};

use crate::party::{Country, PartialDate, PartyId};

/// Something that can be read from one cell of a file and written into one.
pub trait Cell: Sized {
    /// What the text form must be, in words for an error message.
    const EXPECTED: &'static str;

    /// From its text, which is not blank.
    fn read(text: &str) -> Option<Self>;

    /// As text.
    fn write(&self) -> String;
}

macro_rules! as_text {
    ($($type:ty, $expected:expr;)*) => {$(
        impl Cell for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

as_text! {
    PartyId, PartyId::EXPECTED;
    Country, Country::EXPECTED;
    PartialDate, PartialDate::EXPECTED;
    UtcMillis, "an RFC 3339 time, for example 2026-01-31T08:00:00Z";
}

impl Cell for Operations {
    const EXPECTED: &'static str =
        "whole teraoperations in decimal digits, for example 100000000000000 for 1e26";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self) -> String {
        self.tera().to_string()
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $expected:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Cell for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Option<Self> {
                let is: fn(&str) -> bool = $check;
                is(text).then(|| Self(text.to_owned()))
            }

            fn write(&self) -> String {
                self.0.clone()
            }
        }
    };
}

checked_text! {
    /// A name of the operator's books.
    Label, "1 to 128 printable ASCII characters without blanks",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
checked_text! {
    /// Words.
    Text, "text of at most 4,096 bytes in one line",
    |text| (1..=4096).contains(&text.len()) && !text.contains(char::is_control)
}
checked_text! {
    /// SHA-256 in hexadecimal digits.
    Sha256Hex, "64 hexadecimal digits in small letters",
    |text| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
checked_text! {
    /// An amount of money with its currency.
    Money, "an amount and the three letters of its currency, for example 1250000.50 USD",
    |text| {
        let digits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let Some((amount, currency)) = text.split_once(' ') else { return false };
        let (whole, parts) = amount.split_once('.').unwrap_or((amount, "0"));
        let letters = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
        digits(whole, 15) && digits(parts, 4) && letters
    }
}

/// How many; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u32);

impl Cell for Count {
    const EXPECTED: &'static str = "a whole number from 1 to 1,000,000";

    fn read(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|count| digits && (1..=1_000_000).contains(count)).map(Self)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

macro_rules! one_of {
    ($(#[$doc:meta])* $type:ident, $expected:literal, $( $(#[$one_doc:meta])* $one:ident $name:literal ),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $( $(#[$one_doc])* $one ),* }

        impl Cell for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Option<Self> {
                match text { $( $name => Some(Self::$one), )* _ => None }
            }

            fn write(&self) -> String {
                match self { $( Self::$one => $name ),* }.to_owned()
            }
        }
    };
}

one_of! {
    /// Whether.
    YesNo, "yes or no",
    /// It is so.
    Yes "yes",
    /// It is not so.
    No "no"
}
one_of! {
    /// What an authority does about accounts.
    Effect, "prohibit or condition",
    /// There may be none.
    Prohibit "prohibit",
    /// There may be some, on conditions.
    Condition "condition"
}
one_of! {
    /// What an outside system found.
    Verdict, "not_required, required, granted or denied",
    /// No licence is needed.
    NotRequired "not_required",
    /// One is needed.
    Required "required",
    /// One was granted.
    Granted "granted",
    /// One was denied.
    Denied "denied"
}
