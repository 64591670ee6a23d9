//! Countries, by the two letters of ISO 3166-1.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::DefaultIsZeroes;

/// A country or territory that ISO 3166-1 gives two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// Text that is no country.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", Country::EXPECTED)]
pub struct BadCountry;

/// Those assigned, without those reserved or withdrawn: the United Kingdom is GB.
const ASSIGNED: &str = "ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICKCLCMCNCOCRCUCVCWCXCYCZDEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGSGTGUGWGYHKHMHNHRHTHUIDIEILIMINIOIQIRISITJEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULVLYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPMPNPRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTCTDTFTGTHTJTKTLTMTNTOTRTTTVTWTZUAUGUMUSUYUZVAVCVEVGVIVNVUWFWSYEYTZAZMZW";

impl Country {
    /// What the text form must be, in words for an error message.
    pub const EXPECTED: &'static str = "the two letters of a country by ISO 3166-1, as US, GB or CN";

    /// Every one of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        ASSIGNED.as_bytes().as_chunks::<2>().0.iter().map(|letters| Self(*letters))
    }

    /// Its two letters.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl FromStr for Country {
    type Err = BadCountry;

    fn from_str(text: &str) -> Result<Self, BadCountry> {
        let letters: [u8; 2] = text.as_bytes().try_into().map_err(|_| BadCountry)?;
        let country = Self(letters.map(|letter| letter.to_ascii_uppercase()));
        Self::all().find(|known| *known == country).ok_or(BadCountry)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Wiped to letters that are no country's.
impl Default for Country {
    fn default() -> Self {
        Self(*b"ZZ")
    }
}

impl DefaultIsZeroes for Country {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_249_in_order_and_each_reads_back() {
        let all: Vec<Country> = Country::all().collect();
        assert_eq!(all.len(), 249);
        assert!(all.is_sorted_by(|a, b| a < b));
        assert!(all.iter().all(|country| country.as_str().to_lowercase().parse() == Ok(*country)));
    }

    #[test]
    fn what_is_not_assigned_is_refused() {
        for bad in ["UK", "ZZ", "EU", "USA", "U", "", "ÿ"] {
            assert_eq!(bad.parse::<Country>(), Err(BadCountry), "{bad}");
        }
    }
}
