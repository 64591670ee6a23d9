//! What no record of a party may say. Errors name the place and what was expected, never the value.

use super::{Country, Evidence, Identifier, Party, Scheme};

/// A record that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} is not {expected}")]
pub struct BadParty {
    /// Where, as `names[0].full`.
    pub place: String,
    /// What was expected there.
    pub expected: &'static str,
}

/// The most bytes of one text.
const LONGEST: usize = 4096;

/// What is expected where a full card number stood, in words for an error message.
pub const NO_CARD: &str = "free of full card numbers: keep the last digits or a token";

/// The most values of one kind.
const MOST: usize = 10_000;

impl Party {
    /// Whether it can be kept: texts that are neither blank nor endless, numbers that can be what they are said to
    /// be, and no full card number anywhere.
    ///
    /// # Errors
    /// Names the first thing that is wrong.
    pub fn check(&self) -> Result<(), BadParty> {
        let counts = [
            ("names", self.names.len()),
            ("citizenships", self.citizenships.len()),
            ("addresses", self.addresses.len()),
            ("emails", self.emails.len()),
            ("telephones", self.telephones.len()),
            ("domains", self.domains.len()),
            ("payments", self.payments.len()),
            ("identifiers", self.identifiers.len()),
            ("accesses", self.accesses.len()),
            ("us_person", self.us_person.0.len()),
            ("verifications", self.verifications.len()),
            ("discrepancies", self.discrepancies.len()),
            ("risk_reasons", self.risk_reasons.len()),
        ];
        for (place, count) in counts {
            good(count <= MOST, || place.into(), "a list of at most 10,000")?;
        }
        for (place, value) in self.texts() {
            let blank = value.trim().is_empty();
            let fits = !blank && value.len() <= LONGEST && value.trim().len() == value.len();
            good(fits, || place.clone(), "text of at most 4,096 bytes, without blanks around it")?;
            good(!value.contains(char::is_control), || place.clone(), "text in one line")?;
            let of_payment = place.starts_with("payments[");
            let reading = if of_payment { CardReading::Wide } else { CardReading::Strict };
            good(!is_card_number(value, reading), || place.clone(), NO_CARD)?;
        }
        for (index, email) in self.emails.iter().enumerate() {
            let is = email.contains('@') && !email.contains(char::is_whitespace);
            good(is, || format!("emails[{index}]"), "an email address, with an @ and without blanks")?;
        }
        for (index, number) in self.telephones.iter().enumerate() {
            let is = number.contains(|character: char| character.is_ascii_digit());
            good(is, || format!("telephones[{index}]"), "a telephone number, with digits")?;
        }
        for (index, name) in self.names.iter().enumerate() {
            let is = |script: &String| {
                script.len() == 4
                    && script.starts_with(|first: char| first.is_ascii_uppercase())
                    && script[1..].bytes().all(|byte| byte.is_ascii_lowercase())
            };
            good(
                name.script.as_ref().is_none_or(is),
                || format!("names[{index}].script"),
                "four letters of ISO 15924, as Cyrl",
            )?;
        }
        for (index, payment) in self.payments.iter().enumerate() {
            let told = payment.means.is_some() || payment.source.is_some();
            good(told, || format!("payments[{index}]"), "a payment with means or source")?;
        }
        for (index, identifier) in self.identifiers.iter().enumerate() {
            good(
                can_be(identifier),
                || format!("identifiers[{index}].number"),
                "a legal entity identifier: 20 letters and digits whose check digits fit (ISO 17442)",
            )?;
        }
        for (place, evidence) in self.evidence() {
            let is = |hash: &String| {
                hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            good(
                evidence.sha256.as_ref().is_none_or(is),
                || format!("{place}.sha256"),
                "64 hexadecimal digits in small letters",
            )?;
        }
        Ok(())
    }

    fn evidence(&self) -> impl Iterator<Item = (String, &Evidence)> {
        let of_verifications = self.verifications.iter().enumerate().flat_map(|(index, one)| {
            let place = move |of| format!("verifications[{index}].evidence[{of}]");
            one.evidence.iter().enumerate().map(move |(of, evidence)| (place(of), evidence))
        });
        let of_status = self.us_person.0.iter().enumerate().flat_map(|(index, one)| {
            let place = move |of| format!("us_person[{index}].evidence[{of}]");
            one.evidence.iter().enumerate().map(move |(of, evidence)| (place(of), evidence))
        });
        of_verifications.chain(of_status)
    }

    /// Every text in it, with its place.
    fn texts(&self) -> Vec<(String, &str)> {
        let mut texts: Vec<(String, &str)> = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let parts = [("given", &name.given), ("middle", &name.middle), ("patronymic", &name.patronymic)];
            let parts = parts.into_iter().chain([("family", &name.family)]);
            texts.push((format!("names[{index}].full"), &name.full));
            texts.extend(told_parts(&format!("names[{index}]"), parts));
        }
        for (index, address) in self.addresses.iter().enumerate() {
            let parts = [("street", &address.street), ("locality", &address.locality)];
            let parts =
                parts.into_iter().chain([("region", &address.region), ("postcode", &address.postcode)]);
            texts.push((format!("addresses[{index}].full"), &address.full));
            texts.extend(told_parts(&format!("addresses[{index}]"), parts));
        }
        let lists = [
            ("emails", &self.emails),
            ("telephones", &self.telephones),
            ("domains", &self.domains),
            ("risk_reasons", &self.risk_reasons),
        ];
        for (list, values) in lists {
            texts.extend(
                values.iter().enumerate().map(|(index, value)| (format!("{list}[{index}]"), value.as_str())),
            );
        }
        for (index, payment) in self.payments.iter().enumerate() {
            let parts = [("means", &payment.means), ("source", &payment.source)];
            texts.extend(told_parts(&format!("payments[{index}]"), parts));
        }
        for (index, identifier) in self.identifiers.iter().enumerate() {
            texts.push((format!("identifiers[{index}].number"), &identifier.number));
            texts.extend(told_parts(&format!("identifiers[{index}]"), [("issuer", &identifier.issuer)]));
        }
        for (index, one) in self.us_person.0.iter().enumerate() {
            texts.push((format!("us_person[{index}].by"), &one.by));
        }
        for (index, one) in self.verifications.iter().enumerate() {
            texts.push((format!("verifications[{index}].id"), &one.id));
            texts.push((format!("verifications[{index}].checker"), &one.checker));
            texts.extend(told_parts(&format!("verifications[{index}]"), [("note", &one.note)]));
        }
        for (place, evidence) in self.evidence() {
            texts.push((format!("{place}.what"), &evidence.what));
        }
        for (index, one) in self.discrepancies.iter().enumerate() {
            texts.push((format!("discrepancies[{index}].id"), &one.id));
            texts.push((format!("discrepancies[{index}].what"), &one.what));
            if let Some(resolution) = &one.resolved {
                texts.push((format!("discrepancies[{index}].resolved.how"), &resolution.how));
                texts.push((format!("discrepancies[{index}].resolved.by"), &resolution.by));
            }
        }
        texts
    }
}

fn told_parts<'a>(
    place: &str,
    parts: impl IntoIterator<Item = (&'static str, &'a Option<String>)>,
) -> Vec<(String, &'a str)> {
    let told = parts.into_iter().filter_map(|(part, value)| Some((part, value.as_deref()?)));
    told.map(|(part, value)| (format!("{place}.{part}"), value)).collect()
}

fn good(is: bool, place: impl FnOnce() -> String, expected: &'static str) -> Result<(), BadParty> {
    if is { Ok(()) } else { Err(BadParty { place: place(), expected }) }
}

fn can_be(identifier: &Identifier) -> bool {
    let number = identifier.number.as_bytes();
    match identifier.scheme {
        Scheme::Lei => number.len() == 20 && mod_97(number) == Some(1),
        _ => true,
    }
}

/// What is left of it divided by 97, letters as 10 to 35 (ISO 7064); `None` where it has anything else.
fn mod_97(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |left, byte| match byte {
        b'0'..=b'9' => Some((left * 10 + u32::from(byte - b'0')) % 97),
        b'A'..=b'Z' => Some((left * 100 + u32::from(byte - b'A') + 10) % 97),
        _ => None,
    })
}

/// How a text is looked at for card numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardReading {
    /// Where somebody may well write one: any length of a scheme, in any groups.
    Wide,
    /// Where other long numbers stand: the usual lengths of a scheme, in one group or as cards print them.
    Strict,
}

/// Whether a text holds what can be a full number of a payment card: 13 to 19 digits, whole groups of them one after
/// another, that begin as those of the card schemes do and whose check digit fits (ISO/IEC 7812-1). What lies in an
/// account number with its country (ISO 13616), a legal entity identifier, a hash, a wallet's address or a UUID is
/// none.
pub fn is_card_number(text: &str, reading: CardReading) -> bool {
    // Few texts have so many digits.
    if text.bytes().filter(|byte| byte.is_ascii_digit() || !byte.is_ascii()).count() < SHORTEST {
        return false;
    }
    let characters: Vec<char> = text.chars().map(plain).collect();
    let groups = runs(&characters, char::is_ascii_digit);
    let others = other_numbers(&characters);
    (0..groups.len()).any(|first| {
        let mut digits: Vec<u8> = Vec::new();
        let mut lengths = Vec::new();
        for (place, &(begins, ends)) in groups.iter().enumerate().skip(first) {
            let apart = place > first && !is_between(&characters[groups[place - 1].1..begins]);
            if apart || digits.len() + (ends - begins) > LONGEST_CARD {
                break;
            }
            digits.extend(characters[begins..ends].iter().map(|digit| *digit as u8 - b'0'));
            lengths.push(ends - begins);
            let of_another = || others.iter().any(|(from, to)| *from <= groups[first].0 && ends <= *to);
            if is_of_a_scheme(&digits, reading)
                && (reading == CardReading::Wide || as_printed(&lengths))
                && luhn(&digits)
                && !of_another()
            {
                return true;
            }
        }
        false
    })
}

const SHORTEST: usize = 13;
const LONGEST_CARD: usize = 19;

/// A decimal digit of another script, or a wide one, as ASCII has it.
fn plain(character: char) -> char {
    const ZEROS: [u32; 6] = [0x660, 0x6f0, 0x966, 0x9e6, 0xe50, 0xff10];
    let code = u32::from(character);
    let digit = ZEROS.into_iter().find_map(|zero| code.checked_sub(zero).filter(|digit| *digit < 10));
    digit.and_then(|digit| char::from_digit(digit, 10)).unwrap_or(character)
}

/// Where such characters stand without anything between them.
fn runs(characters: &[char], is_of_it: fn(&char) -> bool) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (place, _) in characters.iter().enumerate().filter(|(_, character)| is_of_it(character)) {
        match runs.last_mut().filter(|(_, ends)| *ends == place) {
            Some((_, ends)) => *ends += 1,
            None => runs.push((place, place + 1)),
        }
    }
    runs
}

/// What may stand between groups of one number: blanks, dashes, dots and the like; more of them mask something.
fn is_between(characters: &[char]) -> bool {
    (1..=3).contains(&characters.len()) && !characters.iter().any(|one| one.is_alphanumeric())
}

/// First digits and lengths, by the schemes' published ranges.
fn is_of_a_scheme(digits: &[u8], reading: CardReading) -> bool {
    if digits.len() < SHORTEST {
        return false;
    }
    let begins = digits.iter().take(4).fold(0, |number, digit| number * 10 + u32::from(*digit));
    let length = digits.len();
    let strict = reading == CardReading::Strict;
    let long = if strict { matches!(length, 16 | 19) } else { (16..=19).contains(&length) };
    match begins {
        4000..=4999 => matches!(length, 16 | 19) || (length == 13 && !strict),
        5100..=5599 | 2221..=2720 => length == 16,
        3400..=3499 | 3700..=3799 => length == 15,
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => length == 14 || (long && !strict),
        3528..=3589 | 6011 | 6200..=6299 | 6440..=6599 | 2200..=2204 | 8100..=8199 => long,
        // Cards of debit, whose ranges are those of many other numbers too.
        5000..=5099 | 5600..=5899 | 6000..=6999 => long && !strict,
        _ => false,
    }
}

/// The groups in which cards show their numbers, or none.
fn as_printed(lengths: &[usize]) -> bool {
    matches!(lengths, [_] | [4, 4, 4, 4] | [4, 4, 4, 4, 3] | [4, 6, 5] | [4, 6, 4] | [6, 13])
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits.iter().rev().enumerate().fold(0, |sum, (index, digit)| {
        let doubled = if index % 2 == 1 { 2 * digit } else { *digit };
        sum + u32::from(if doubled > 9 { doubled - 9 } else { doubled })
    });
    sum.is_multiple_of(10)
}

/// Where numbers of other kinds stand, told by their form and their own check digits.
fn other_numbers(characters: &[char]) -> Vec<(usize, usize)> {
    let words = runs(characters, char::is_ascii_alphanumeric);
    let mut others = Vec::new();
    for (index, &(begins, ends)) in words.iter().enumerate() {
        let word = &characters[begins..ends];
        let hex = match word {
            ['0', 'x', rest @ ..] => rest,
            word => word,
        };
        let is_hash = hex.len() > 24
            && hex.iter().all(char::is_ascii_hexdigit)
            && hex.iter().any(char::is_ascii_alphabetic);
        // In capitals, the check digits last: else any word as long would be one by chance, once in 97 times.
        let is_lei = word.len() == 20
            && word[18..].iter().all(char::is_ascii_digit)
            && mod_97(&bytes(word)) == Some(1);
        if is_hash || is_lei {
            others.push((begins, ends));
        }
        others.extend(account_number(characters, &words[index..]));
        others.extend(uuid(characters, &words[index..]));
    }
    others
}

fn bytes(characters: &[char]) -> Vec<u8> {
    characters.iter().filter_map(|one| u8::try_from(*one).ok()).collect()
}

fn upper(characters: &[char]) -> Vec<u8> {
    bytes(characters).to_ascii_uppercase()
}

/// An international account number that begins with the first word: whole words, with a character between them, as
/// many as its check digits fit.
fn account_number(characters: &[char], words: &[(usize, usize)]) -> Option<(usize, usize)> {
    let &(mut begins, first_ends) = words.first()?;
    if upper(&characters[begins..first_ends]).starts_with(b"IBAN") {
        begins += 4;
    }
    let mut number: Vec<u8> = Vec::new();
    let (mut last, mut found) = (first_ends, None);
    for (index, &(from, ends)) in words.iter().enumerate() {
        let from = from.max(begins);
        if (index > 0 && from - last > 1) || number.len() + (ends - from) > 34 {
            break;
        }
        number.extend(upper(&characters[from..ends]));
        last = ends;
        let Some((head, tail)) = number.split_at_checked(4) else { continue };
        let country =
            str::from_utf8(&head[..2]).is_ok_and(|two| two == "XK" || two.parse::<Country>().is_ok());
        let shaped = country && head[2..].iter().all(u8::is_ascii_digit);
        if !shaped {
            break;
        }
        if number.len() >= 15 && mod_97(&[tail, head].concat()) == Some(1) {
            found = Some((begins, ends));
        }
    }
    found
}

fn uuid(characters: &[char], words: &[(usize, usize)]) -> Option<(usize, usize)> {
    let five = words.get(..5)?;
    let fits = five.iter().zip([8, 4, 4, 4, 12]).all(|(&(begins, ends), length)| {
        ends - begins == length && characters[begins..ends].iter().all(char::is_ascii_hexdigit)
    });
    let joined = five.windows(2).all(|two| characters[two[0].1..two[1].0] == ['-']);
    (fits && joined).then_some((five[0].0, five[4].1))
}
