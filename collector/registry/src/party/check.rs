//! What no record of a party may say. Errors name the place and what was expected, never the value.

use super::{Evidence, Identifier, Party, Scheme};

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
            let texts = [("means", &payment.means), ("source", &payment.source)];
            for (place, value) in told_parts(&format!("payments[{index}]"), texts) {
                good(
                    !is_card_number(value),
                    || place,
                    "free of full card numbers: keep the last digits or a token",
                )?;
            }
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

/// Whether a text holds what can be a full number of a payment card: 13 to 19 digits, blanks and hyphens between them
/// left out, that begin as those of the card schemes do, whose check digit fits (ISO/IEC 7812-1), and which are neither
/// an account number with its country (ISO 13616) nor a part of a hash or a wallet's address.
pub fn is_card_number(text: &str) -> bool {
    let mut digits: Vec<u8> = Vec::new();
    let mut begins = 0;
    let ended = |digits: &[u8], begins: usize| {
        is_of_a_scheme(digits)
            && luhn(digits)
            && !in_long_word(text, begins)
            && !in_account_number(text, begins)
    };
    for (place, character) in text.char_indices() {
        match character {
            '0'..='9' => {
                if digits.is_empty() {
                    begins = place;
                }
                digits.push(character as u8 - b'0');
            }
            ' ' | '-' => {}
            _ => {
                if ended(&digits, begins) {
                    return true;
                }
                digits.clear();
            }
        }
    }
    ended(&digits, begins)
}

/// First digits and lengths, from memory of the schemes' published ranges; wider rather than narrower.
fn is_of_a_scheme(digits: &[u8]) -> bool {
    matches!(
        (digits.first(), digits.len()),
        (Some(4), 13 | 16 | 19) | (Some(2), 16) | (Some(3), 14..=19) | (Some(5 | 6), 16..=19)
    )
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits.iter().rev().enumerate().fold(0, |sum, (index, digit)| {
        let doubled = if index % 2 == 1 { 2 * digit } else { *digit };
        sum + u32::from(if doubled > 9 { doubled - 9 } else { doubled })
    });
    sum.is_multiple_of(10)
}

/// Whether the place lies in a word of more letters and digits than any card number has.
fn in_long_word(text: &str, place: usize) -> bool {
    let is_of_it = |character: &char| character.is_ascii_alphanumeric();
    let before = text[..place].chars().rev().take_while(is_of_it).count();
    before + text[place..].chars().take_while(is_of_it).count() > 24
}

/// Whether the digits at `place` are of an international account number: one that begins at most six places before
/// them, blanks left out, and whose check digits fit.
fn in_account_number(text: &str, place: usize) -> bool {
    let before: Vec<usize> = text[..place]
        .char_indices()
        .rev()
        .filter(|(_, character)| !character.is_whitespace())
        .take_while(|(_, character)| character.is_ascii_alphanumeric())
        .map(|(index, _)| index)
        .take(8)
        .collect();
    before.into_iter().any(|begins| {
        let rest = &text[begins..];
        let number: Vec<u8> = rest
            .bytes()
            .filter(|byte| *byte != b' ')
            .take_while(u8::is_ascii_alphanumeric)
            .map(|byte| byte.to_ascii_uppercase())
            .collect();
        if !(15..=34).contains(&number.len()) {
            return false;
        }
        let (head, tail) = number.split_at(4);
        let shaped = head[..2].iter().all(u8::is_ascii_uppercase) && head[2..].iter().all(u8::is_ascii_digit);
        shaped && mod_97(&[tail, head].concat()) == Some(1)
    })
}
