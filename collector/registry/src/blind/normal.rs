//! Values without what only writing changes: two that read the same here are taken for one.
//!
//! Case is folded by writing all in capitals and then all small, after NFKC: that makes one of `Straße` and `STRASSE`,
//! and of the two small sigmas. It leaves out the full table of Unicode and what only a language knows: a Turkish `İ` is
//! no `i`, and letters with and without marks are two. A name in the domain system in its ASCII form (`xn--`) is not
//! that in letters.

use std::net::IpAddr;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::What;

/// `None` where nothing is left, or the text is no such value.
pub(super) fn of(what: What, text: &str) -> Option<Zeroizing<String>> {
    let normal = match what {
        What::Name | What::Address => words(text),
        What::Email => email(text),
        What::Telephone => telephone(text),
        What::Domain => domain(text),
        What::Identifier(_) | What::Number | What::PaymentSource => number(text),
        What::Access => access(text.trim().parse().ok()?),
    };
    (!normal.is_empty()).then_some(normal)
}

/// Written the same, though one was mapped into IPv6.
pub(super) fn access(address: IpAddr) -> Zeroizing<String> {
    Zeroizing::new(address.to_canonical().to_string())
}

/// A string that has room, so that it leaves no copies behind as it grows.
fn collected(text: &str, characters: impl Iterator<Item = char>) -> Zeroizing<String> {
    let mut all = Zeroizing::new(String::with_capacity(4 * text.len() + 16));
    all.extend(characters);
    all
}

fn folded(text: &str) -> Zeroizing<String> {
    let composed = collected(text, text.nfkc());
    let capitals = Zeroizing::new(composed.to_uppercase());
    let small = Zeroizing::new(capitals.to_lowercase());
    collected(&small, small.nfkc())
}

/// Of blanks of any kind, one is left between words.
fn words(text: &str) -> Zeroizing<String> {
    let folded = folded(text);
    let mut all = Zeroizing::new(String::with_capacity(folded.len()));
    for word in folded.split_whitespace() {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(word);
    }
    all
}

/// Case counts in no domain. Before the `@` it may, by RFC 5321, and does at no provider that is known to us, while
/// people write it as they like: who is missed costs more than one too many, whom a person looks at anyway.
fn email(text: &str) -> Zeroizing<String> {
    let folded = folded(text.trim());
    match folded.rsplit_once('@') {
        Some((local, name)) if !local.is_empty() && !name.is_empty() => {
            let name = domain(name);
            let mut all = Zeroizing::new(String::with_capacity(folded.len() + 1));
            all.push_str(local);
            all.push('@');
            all.push_str(&name);
            all
        }
        _ => Zeroizing::default(),
    }
}

/// A dot at the end says only that the name is whole.
fn domain(text: &str) -> Zeroizing<String> {
    let folded = folded(text.trim());
    Zeroizing::new(folded.trim_end_matches('.').to_owned())
}

/// Digits alone. `+` and `00` before a country are the same, and a `(0)` behind it, which is not dialled from abroad, is
/// none. A number without its country stays another one than that with it.
fn telephone(text: &str) -> Zeroizing<String> {
    let composed = collected(text, text.trim().nfkc());
    let is_whole = composed.starts_with('+') || composed.starts_with("00");
    let digits = |text: &str| collected(text, text.chars().filter(char::is_ascii_digit));
    if !is_whole {
        return digits(&composed);
    }
    let dialled = Zeroizing::new(composed.replacen("(0)", "", 1));
    let whole = digits(&dialled);
    match composed.starts_with("00") {
        true => Zeroizing::new(whole.strip_prefix("00").unwrap_or(&whole).to_owned()),
        false => whole,
    }
}

/// In capitals, without blanks, dots and any of the hyphens that come out of word processors.
fn number(text: &str) -> Zeroizing<String> {
    let composed = collected(text, text.nfkc());
    let capitals = Zeroizing::new(composed.to_uppercase());
    let is_filler = |character: char| {
        character.is_whitespace()
            || matches!(character, '.' | '-' | '\u{ad}' | '\u{2010}'..='\u{2015}' | '\u{2212}')
    };
    let bare = collected(&capitals, capitals.chars().filter(|character| !is_filler(*character)));
    collected(&bare, bare.nfkc())
}
