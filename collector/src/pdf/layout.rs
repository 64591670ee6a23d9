//! Where each line of a report stands: pages of A4, headings that stay with what follows, tables whose rows stay whole
//! where they fit on a page, and their headings again on each page.

use pdf_writer::{Content, Name, Str, types::StructRole, types::TextRenderingMode};

use super::fonts::{Fonts, Glyph};

/// A4, in points.
pub(super) const PAGE: (f32, f32) = (595.0, 842.0);
const SIDE: f32 = 48.0;
const TOP: f32 = 792.0;
const BOTTOM: f32 = 60.0;
const WIDTH: f32 = PAGE.0 - 2.0 * SIDE;
/// Between two columns.
const GUTTER: f32 = 8.0;
/// Above and below a row.
const PADDING: f32 = 2.5;

/// How something is written.
#[derive(Clone, Copy)]
struct Style {
    size: f32,
    bold: bool,
    gray: f32,
}

impl Style {
    const TITLE: Self = Self { size: 16.0, bold: true, gray: 0.0 };
    const HEADING: Self = Self { size: 11.5, bold: true, gray: 0.0 };
    const TEXT: Self = Self { size: 9.0, bold: false, gray: 0.0 };
    const CELL: Self = Self { size: 7.5, bold: false, gray: 0.0 };
    const COLUMN: Self = Self { size: 7.5, bold: true, gray: 0.3 };
    const BLANK: Self = Self { size: 7.5, bold: false, gray: 0.45 };
    const FOOT: Self = Self { size: 6.5, bold: false, gray: 0.3 };

    fn leading(self) -> f32 {
        self.size * 1.35
    }
}

/// A part of the document for who has it read aloud.
pub(super) struct Node {
    pub(super) role: StructRole,
    pub(super) parent: usize,
    pub(super) kids: Vec<Kid>,
}

/// What is in a part.
pub(super) enum Kid {
    Node(usize),
    /// A piece of a page, under its number there.
    Mark {
        page: usize,
        number: i32,
    },
}

/// A page, and of each of its marked pieces the part that it belongs to.
pub(super) struct Page {
    pub(super) content: Content,
    pub(super) marks: Vec<usize>,
}

impl Page {
    fn blank() -> Self {
        Self { content: Content::new(), marks: Vec::new() }
    }
}

type Line = Vec<Glyph>;

/// A cell of a row: its lines, how they are written, and where they begin.
struct Cell {
    lines: Vec<Line>,
    style: Style,
    x: f32,
}

/// A document as it grows.
pub(super) struct Layout<'a> {
    pub(super) fonts: Fonts<'a>,
    pub(super) pages: Vec<Page>,
    /// The first is the document.
    pub(super) nodes: Vec<Node>,
    /// How far the last page is filled, from its lower edge.
    y: f32,
}

fn width(glyphs: &[Glyph], size: f32) -> f32 {
    glyphs.iter().map(|glyph| glyph.width).sum::<f32>() * size / 1000.0
}

impl<'a> Layout<'a> {
    pub(super) fn new(fonts: Fonts<'a>) -> Self {
        let document = Node { role: StructRole::Document, parent: 0, kids: Vec::new() };
        Self { fonts, pages: vec![Page::blank()], nodes: vec![document], y: TOP }
    }

    pub(super) fn title(&mut self, text: &str) {
        self.block(StructRole::H1, text, Style::TITLE, 0.0);
        self.y -= 4.0;
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.y -= 10.0;
        // Not alone at the end of a page.
        if self.y < BOTTOM + 60.0 {
            self.turn();
        }
        self.block(StructRole::H2, text, Style::HEADING, 3.0);
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.block(StructRole::P, text, Style::TEXT, 3.0);
    }

    fn block(&mut self, role: StructRole, text: &str, style: Style, after: f32) {
        let node = self.node(role, 0);
        let lines = self.wrapped(text, style.size, WIDTH);
        let mut lines = lines.as_slice();
        while !lines.is_empty() {
            let fit = lines_in(self.y - BOTTOM, style).min(lines.len());
            if fit == 0 {
                self.turn();
                continue;
            }
            let (now, rest) = lines.split_at(fit);
            self.draw(Some(node), now, SIDE, style);
            self.y -= style.leading() * line_count(now.len());
            lines = rest;
        }
        self.y -= after;
    }

    /// A table; columns without headings have none.
    pub(super) fn table(&mut self, columns: &[&str], rows: &[Vec<Vec<String>>]) {
        let widths = self.widths(columns, rows);
        let table = self.node(StructRole::Table, 0);
        let headed = columns.iter().any(|column| !column.is_empty());
        let heads: Vec<Vec<String>> = columns.iter().map(|column| vec![(*column).to_owned()]).collect();
        let head = headed.then(|| self.cells(&heads, &widths, |_| Style::COLUMN));
        if let Some(head) = &head {
            let row = self.node(StructRole::TR, table);
            let nodes = head.iter().map(|_| self.node(StructRole::TH, row)).collect::<Vec<_>>();
            self.row(head, &nodes, None);
        }
        for row in rows {
            let style = |cell: &[String]| match cell {
                [only] if only == "blank" => Style::BLANK,
                _ => Style::CELL,
            };
            let cells = self.cells(row, &widths, style);
            let node = self.node(StructRole::TR, table);
            let nodes: Vec<usize> = (0..cells.len())
                .map(|column| self.node(if column == 0 { StructRole::TH } else { StructRole::TD }, node))
                .collect();
            self.row(&cells, &nodes, head.as_deref());
        }
        self.y -= 4.0;
    }

    fn cells(
        &mut self,
        row: &[Vec<String>],
        widths: &[f32],
        style: impl Fn(&[String]) -> Style,
    ) -> Vec<Cell> {
        let mut x = SIDE;
        let mut cells = Vec::new();
        for (cell, width) in row.iter().zip(widths) {
            let style = style(cell);
            let lines = cell.iter().flat_map(|line| self.wrapped(line, style.size, *width)).collect();
            cells.push(Cell { lines, style, x });
            x += width + GUTTER;
        }
        cells
    }

    /// A row, on the next page if it does not fit on this one and does there. One that is longer than a page is divided.
    fn row(&mut self, cells: &[Cell], nodes: &[usize], head: Option<&[Cell]>) {
        let height = |cells: &[Cell]| {
            let tall = cells.iter().map(|cell| cell.style.leading() * line_count(cell.lines.len()));
            tall.fold(0.0, f32::max) + 2.0 * PADDING
        };
        let fresh = TOP - BOTTOM - head.map_or(0.0, height);
        let mut done = 0;
        let longest = cells.iter().map(|cell| cell.lines.len()).max().unwrap_or(0);
        if self.y - height(cells) < BOTTOM && (height(cells) <= fresh || self.y < BOTTOM + 80.0) {
            self.turn_with(head);
        }
        while done < longest {
            let room = self.y - BOTTOM - 2.0 * PADDING;
            let fit = cells.iter().map(|cell| lines_in(room, cell.style)).min().unwrap_or(0).max(1);
            self.rule();
            self.y -= PADDING;
            let mut deepest = 0.0_f32;
            for (cell, node) in cells.iter().zip(nodes) {
                let lines = cell.lines.get(done..).unwrap_or_default();
                let lines = lines.get(..fit).unwrap_or(lines);
                if !lines.is_empty() {
                    self.draw(Some(*node), lines, cell.x, cell.style);
                    deepest = deepest.max(cell.style.leading() * line_count(lines.len()));
                }
            }
            self.y -= deepest + PADDING;
            done += fit;
            if done < longest {
                self.turn_with(head);
            }
        }
    }

    /// Widths that let short columns be, and divide what is left among the long ones.
    fn widths(&mut self, columns: &[&str], rows: &[Vec<Vec<String>>]) -> Vec<f32> {
        let count = columns.len().max(1);
        let room = WIDTH - GUTTER * line_count(count - 1);
        let (mut least, mut natural) = (vec![0.0_f32; count], vec![0.0_f32; count]);
        for (column, head) in columns.iter().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(column)).flatten().map(String::as_str);
            let texts: Vec<&str> = cells.chain([*head]).collect();
            for text in texts {
                let glyphs = self.fonts.glyphs(text);
                natural[column] = natural[column].max(width(&glyphs, Style::CELL.size) + 1.0);
                for word in text.split_whitespace() {
                    let glyphs = self.fonts.glyphs(word);
                    let word = width(&glyphs, Style::CELL.size) + 1.0;
                    least[column] = least[column].max(word.min(room / 4.0));
                }
            }
        }
        if natural.iter().sum::<f32>() <= room {
            return natural;
        }
        let needed: f32 = least.iter().sum();
        if needed >= room {
            return least.iter().map(|width| width * room / needed).collect();
        }
        // What is asked for beyond the least, with the longest texts held back: they wrap anyhow.
        let wants: Vec<f32> =
            natural.iter().zip(&least).map(|(all, least)| (all.min(room * 0.6) - least).max(0.0)).collect();
        let wanted: f32 = wants.iter().sum::<f32>().max(1.0);
        let share = (room - needed) / wanted;
        least.iter().zip(&wants).map(|(least, wants)| least + wants * share).collect()
    }

    /// The lines of a text that are no wider; a word that is, is broken where it has to.
    fn wrapped(&mut self, text: &str, size: f32, most: f32) -> Vec<Line> {
        let space = self.fonts.glyphs(" ");
        let (mut lines, mut line) = (Vec::new(), Line::new());
        for word in text.split_whitespace() {
            let mut word = self.fonts.glyphs(word);
            let joined = if line.is_empty() { 0.0 } else { width(&line, size) + width(&space, size) };
            if joined + width(&word, size) <= most {
                if !line.is_empty() {
                    line.extend_from_slice(&space);
                }
                line.append(&mut word);
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for glyph in word {
                if !line.is_empty() && width(&line, size) + glyph.width * size / 1000.0 > most {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(glyph);
            }
        }
        if !line.is_empty() || lines.is_empty() {
            lines.push(line);
        }
        lines
    }

    /// At the foot of every page: what it belongs to, and which page it is.
    pub(super) fn footers(&mut self, text: &str) {
        let style = Style::FOOT;
        let count = self.pages.len();
        for page in 0..count {
            let left = self.fonts.glyphs(text);
            let right = self.fonts.glyphs(&format!("page {} of {count}", page + 1));
            let x = PAGE.0 - SIDE - width(&right, style.size);
            let content = &mut self.pages[page].content;
            content.begin_marked_content(Name(b"Artifact"));
            lines_at(content, &[left], SIDE, 36.0, style);
            lines_at(content, &[right], x, 36.0, style);
            content.end_marked_content();
        }
    }

    fn node(&mut self, role: StructRole, parent: usize) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { role, parent, kids: Vec::new() });
        self.nodes[parent].kids.push(Kid::Node(node));
        node
    }

    fn turn(&mut self) {
        self.pages.push(Page::blank());
        self.y = TOP;
    }

    /// The next page, with the headings of a table again: for the eye, they were read already.
    fn turn_with(&mut self, head: Option<&[Cell]>) {
        self.turn();
        let Some(head) = head else { return };
        let mut deepest = 0.0_f32;
        self.y -= PADDING;
        for cell in head {
            self.draw(None, &cell.lines, cell.x, cell.style);
            deepest = deepest.max(cell.style.leading() * line_count(cell.lines.len()));
        }
        self.y -= deepest + PADDING;
    }

    fn rule(&mut self) {
        let y = self.y;
        let content = &mut self.last().content;
        content.begin_marked_content(Name(b"Artifact"));
        content.set_stroke_gray(0.75).set_line_width(0.5);
        content.move_to(SIDE, y).line_to(PAGE.0 - SIDE, y).stroke();
        content.end_marked_content();
    }

    fn last(&mut self) -> &mut Page {
        self.pages.last_mut().expect("a document has a page from its beginning")
    }

    /// Writes lines from where the page is filled to, as a piece of a part, or of none.
    fn draw(&mut self, node: Option<usize>, lines: &[Line], x: f32, style: Style) {
        let (y, place) = (self.y - style.size, self.pages.len() - 1);
        let page = self.last();
        match node {
            Some(node) => {
                let number = i32::try_from(page.marks.len()).unwrap_or(i32::MAX);
                page.marks.push(node);
                page.content.begin_marked_content_with_properties(Name(b"P")).properties().identify(number);
                lines_at(&mut page.content, lines, x, y, style);
                page.content.end_marked_content();
                self.nodes[node].kids.push(Kid::Mark { page: place, number });
            }
            None => {
                page.content.begin_marked_content(Name(b"Artifact"));
                lines_at(&mut page.content, lines, x, y, style);
                page.content.end_marked_content();
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a page has few lines, a report few thousand")]
fn line_count(lines: usize) -> f32 {
    lines as f32
}

/// How many lines fit.
fn lines_in(room: f32, style: Style) -> usize {
    let lines = (room.max(0.0) / style.leading()).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a page has few lines"
    )]
    let lines = lines as usize;
    lines
}

fn lines_at(content: &mut Content, lines: &[Line], x: f32, y: f32, style: Style) {
    content.begin_text();
    content.set_fill_gray(style.gray);
    if style.bold {
        // There is one font: bold is the same with a stroke around it.
        content.set_stroke_gray(style.gray).set_line_width(style.size * 0.035);
        content.set_text_rendering_mode(TextRenderingMode::FillStroke);
    } else {
        content.set_text_rendering_mode(TextRenderingMode::Fill);
    }
    for (place, line) in lines.iter().enumerate() {
        let y = y - style.leading() * line_count(place);
        content.set_text_matrix([1.0, 0.0, 0.0, 1.0, x, y]);
        for run in line.chunk_by(|one, next| one.font == next.font) {
            let font = format!("F{}", run.first().map_or(0, |glyph| glyph.font));
            let text: Vec<u8> = run.iter().flat_map(|glyph| glyph.number.to_be_bytes()).collect();
            content.set_font(Name(font.as_bytes()), style.size).show(Str(&text));
        }
    }
    content.end_text();
}
