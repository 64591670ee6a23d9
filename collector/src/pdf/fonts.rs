//! Which glyph stands for a character, and what stands for one that no font has.

use std::collections::BTreeMap;

use ttf_parser::{Face, GlyphId};

use super::PdfError;

/// A glyph as it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glyph {
    /// In which font.
    pub(super) font: usize,
    /// Under which number there.
    pub(super) number: u16,
    /// In thousandths of the size.
    pub(super) width: f32,
}

/// A font, and what is used of it: a number for each character, from 1, so that what is copied out of the document is
/// the character that was written, also where two of them look the same.
pub(super) struct Typeface<'a> {
    pub(super) data: &'a [u8],
    pub(super) face: Face<'a>,
    pub(super) used: Vec<(char, GlyphId)>,
    numbers: BTreeMap<char, u16>,
}

/// The fonts of a document, in the order in which they are asked.
pub(super) struct Fonts<'a>(pub(super) Vec<Typeface<'a>>);

impl<'a> Fonts<'a> {
    pub(super) fn of(all: impl Iterator<Item = &'a [u8]>) -> Result<Self, PdfError> {
        let typefaces = all.enumerate().map(|(font, data)| {
            let face = Face::parse(data, 0).map_err(|_| PdfError::Font { font })?;
            Ok(Typeface { data, face, used: Vec::new(), numbers: BTreeMap::new() })
        });
        typefaces.collect::<Result<_, _>>().map(Self)
    }

    /// The glyphs of a text, all in one line.
    pub(super) fn glyphs(&mut self, text: &str) -> Vec<Glyph> {
        let mut glyphs = Vec::new();
        for character in text.chars() {
            let character = if character.is_whitespace() { ' ' } else { character };
            match self.glyph(character) {
                Some(glyph) => glyphs.push(glyph),
                None => {
                    let number = format!("[U+{:04X}]", u32::from(character));
                    glyphs.extend(number.chars().filter_map(|plain| self.glyph(plain)));
                }
            }
        }
        glyphs
    }

    fn glyph(&mut self, character: char) -> Option<Glyph> {
        if needs_layout(character) {
            return None;
        }
        self.0.iter_mut().enumerate().find_map(|(font, typeface)| {
            let number = typeface.number(character)?;
            Some(Glyph { font, number, width: typeface.width(number) })
        })
    }
}

impl Typeface<'_> {
    fn number(&mut self, character: char) -> Option<u16> {
        if let Some(number) = self.numbers.get(&character) {
            return Some(*number);
        }
        let glyph = self.face.glyph_index(character).filter(|glyph| glyph.0 != 0)?;
        let number = u16::try_from(self.used.len() + 1).ok()?;
        self.used.push((character, glyph));
        self.numbers.insert(character, number);
        Some(number)
    }

    /// In thousandths of the size.
    pub(super) fn width(&self, number: u16) -> f32 {
        let glyph = self.used.get(usize::from(number).wrapping_sub(1)).map(|(_, glyph)| *glyph);
        let width = glyph.and_then(|glyph| self.face.glyph_hor_advance(glyph)).unwrap_or(0);
        self.thousandths(i32::from(width))
    }

    /// A length of the font in thousandths of the size.
    pub(super) fn thousandths(&self, units: i32) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "lengths of a font are small")]
        let length = units as f32 * 1000.0 / f32::from(self.face.units_per_em());
        length
    }
}

/// Characters that do not stand where and as they are: scripts from right to left, scripts whose letters join or change
/// places, and marks of direction. Shown one after another they would say something else.
fn needs_layout(character: char) -> bool {
    matches!(u32::from(character),
        0x0000..=0x001F | 0x007F..=0x009F
        | 0x0590..=0x08FF | 0x0900..=0x0DFF | 0x0E00..=0x0FFF | 0x1000..=0x109F | 0x1780..=0x18AF
        | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F
        | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFF | 0x10800..=0x10FFF | 0x11000..=0x11FFF | 0x1E800..=0x1EFFF)
}
