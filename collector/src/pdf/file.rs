//! The file: fonts with what is used of them, pages, and the parts that they are read aloud by.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::{
    Filter, Finish, Name, Pdf, Rect, Ref, Str, TextStr,
    types::{CidFontType, FontFlags, SystemInfo, TabOrder, UnicodeCmap},
};
use subsetter::GlyphRemapper;

use super::{
    PdfError,
    fonts::Typeface,
    layout::{Kid, Layout, PAGE},
};

const CATALOG: Ref = Ref::new(1);
const PAGES: Ref = Ref::new(2);
const INFO: Ref = Ref::new(3);
const STRUCTURE: Ref = Ref::new(4);
const FIRST: i32 = 5;

/// Objects of a font.
const OF_A_FONT: i32 = 6;
/// Objects of a page.
const OF_A_PAGE: i32 = 3;

const IDENTITY: SystemInfo<'static> =
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };

fn nth(first: i32, place: usize, each: i32) -> i32 {
    first.saturating_add(i32::try_from(place).unwrap_or(i32::MAX).saturating_mul(each))
}

/// Where each object is.
struct Places {
    pages: i32,
    nodes: i32,
}

impl Places {
    fn font(place: usize, object: i32) -> Ref {
        Ref::new(nth(FIRST, place, OF_A_FONT) + object)
    }

    fn page(&self, place: usize, object: i32) -> Ref {
        Ref::new(nth(self.pages, place, OF_A_PAGE) + object)
    }

    fn node(&self, place: usize) -> Ref {
        Ref::new(nth(self.nodes, place, 1))
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory can be written")
}

/// Writes a document of this title, known by this hash.
pub(super) fn write(layout: Layout<'_>, title: &str, hash: &str) -> Result<Vec<u8>, PdfError> {
    let Layout { fonts, pages, nodes, .. } = layout;
    let after_fonts = nth(FIRST, fonts.0.len(), OF_A_FONT);
    let places = Places { pages: after_fonts, nodes: nth(after_fonts, pages.len(), OF_A_PAGE) };
    let mut pdf = Pdf::new();
    pdf.set_version(1, 7);
    let id = hash.as_bytes().get(..32).unwrap_or_default().to_vec();
    pdf.set_file_id((id.clone(), id));
    let mut catalog = pdf.catalog(CATALOG);
    catalog.pages(PAGES).lang(TextStr("en"));
    catalog.viewer_preferences().display_doc_title(true);
    catalog.mark_info().marked(true);
    catalog.pair(Name(b"StructTreeRoot"), STRUCTURE);
    catalog.finish();
    pdf.document_info(INFO).title(TextStr(title)).producer(TextStr("weighbridge"));

    let used: Vec<usize> = (0..fonts.0.len()).filter(|place| !fonts.0[*place].used.is_empty()).collect();
    for place in &used {
        font(&mut pdf, *place, &fonts.0[*place])?;
    }
    let count = i32::try_from(pages.len()).unwrap_or(i32::MAX);
    pdf.pages(PAGES).kids((0..pages.len()).map(|place| places.page(place, 0))).count(count);
    let mut parents = Vec::new();
    for (place, page) in pages.into_iter().enumerate() {
        let mut written = pdf.page(places.page(place, 0));
        written.parent(PAGES).media_box(Rect::new(0.0, 0.0, PAGE.0, PAGE.1)).contents(places.page(place, 1));
        written.struct_parents(nth(0, place, 1)).tab_order(TabOrder::StructureOrder);
        let mut resources = written.resources();
        let mut dictionary = resources.fonts();
        for font in &used {
            dictionary.pair(Name(format!("F{font}").as_bytes()), Places::font(*font, 0));
        }
        dictionary.finish();
        resources.finish();
        written.finish();
        let content = deflated(&page.content.finish());
        pdf.stream(places.page(place, 1), &content).filter(Filter::FlateDecode);
        let marks = page.marks.iter().map(|node| places.node(*node));
        pdf.indirect(places.page(place, 2)).array().items(marks);
        parents.push(places.page(place, 2));
    }
    for (place, node) in nodes.iter().enumerate() {
        let mut element = pdf.struct_element(places.node(place));
        let parent = if place == 0 { STRUCTURE } else { places.node(node.parent) };
        element.kind(node.role).parent(parent);
        let mut children = element.children();
        for kid in &node.kids {
            match kid {
                Kid::Node(kid) => drop(children.struct_element(places.node(*kid))),
                Kid::Mark { page, number } => {
                    children.marked_content_ref().page(places.page(*page, 0)).marked_content_id(*number);
                }
            }
        }
    }
    let mut root = pdf.indirect(STRUCTURE).start::<pdf_writer::writers::StructTreeRoot<'_>>();
    root.child(places.node(0)).parent_tree_next_key(count);
    let mut tree = root.parent_tree();
    let mut numbers = tree.nums();
    for (place, parent) in parents.into_iter().enumerate() {
        numbers.insert(nth(0, place, 1), parent);
    }
    numbers.finish();
    tree.finish();
    root.finish();
    Ok(pdf.finish())
}

/// A font with the glyphs that are used, under the numbers of their characters.
fn font(pdf: &mut Pdf, place: usize, typeface: &Typeface<'_>) -> Result<(), PdfError> {
    let mut remapper = GlyphRemapper::new();
    let glyphs: Vec<u16> = typeface.used.iter().map(|(_, glyph)| remapper.remap(glyph.0)).collect();
    let subset = subsetter::subset(typeface.data, 0, &remapper)
        .map_err(|problem| PdfError::Subset { font: place, problem: problem.to_string() })?;
    let [outer, inner, descriptor, program, unicode, map] =
        [0, 1, 2, 3, 4, 5].map(|object| Places::font(place, object));
    // A subset is named so: six capitals that tell it from others of the font.
    let name = format!("WEIGH{}+Report{place}", char::from(b'A' + u8::try_from(place % 26).unwrap_or(0)));
    let name = Name(name.as_bytes());
    let numbers = 1..=u16::try_from(typeface.used.len()).unwrap_or(u16::MAX);

    pdf.type0_font(outer)
        .base_font(name)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(inner)
        .to_unicode(unicode);
    let mut cid = pdf.cid_font(inner);
    cid.subtype(CidFontType::Type2).base_font(name).system_info(IDENTITY).font_descriptor(descriptor);
    cid.default_width(0.0).cid_to_gid_map_stream(map);
    cid.widths().consecutive(1, numbers.clone().map(|number| typeface.width(number)));
    cid.finish();
    let face = &typeface.face;
    let bounds = face.global_bounding_box();
    let length = |units: i16| typeface.thousandths(i32::from(units));
    pdf.font_descriptor(descriptor)
        .name(name)
        .flags(FontFlags::SYMBOLIC)
        .bbox(Rect::new(
            length(bounds.x_min),
            length(bounds.y_min),
            length(bounds.x_max),
            length(bounds.y_max),
        ))
        .italic_angle(0.0)
        .ascent(length(face.ascender()))
        .descent(length(face.descender()))
        .cap_height(length(face.capital_height().unwrap_or_else(|| face.ascender())))
        .stem_v(80.0)
        .font_file2(program);
    let packed = deflated(&subset);
    pdf.stream(program, &packed)
        .filter(Filter::FlateDecode)
        .pair(Name(b"Length1"), i32::try_from(subset.len()).unwrap_or(i32::MAX));
    let mut cmap = UnicodeCmap::<u16>::new(Name(b"Custom"), IDENTITY);
    for (number, (character, _)) in numbers.zip(&typeface.used) {
        cmap.pair(number, *character);
    }
    let cmap = cmap.finish();
    let packed = deflated(&cmap);
    pdf.stream(unicode, &packed).filter(Filter::FlateDecode);
    let mapped: Vec<u8> =
        std::iter::once(0_u16).chain(glyphs).flat_map(|glyph| glyph.to_be_bytes()).collect();
    let packed = deflated(&mapped);
    pdf.stream(map, &packed).filter(Filter::FlateDecode);
    Ok(())
}
