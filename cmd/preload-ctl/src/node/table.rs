//! Tables.
//!
//! **Owns** how rows and columns look: no lines between them, so that `awk` and `grep` can use them.
//!
//! **Invariants.** A row is one line, as wide as it needs to be; nothing in it is a control character.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Columns whose heading begins with a `>` are aligned to the right.
pub(super) fn write(out: &mut dyn Write, headings: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.replace(|c: char| c.is_control(), " ")));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if headings[index].starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lines_and_numbers_to_the_right() {
        let mut out = Vec::new();
        let rows = vec![vec!["a\nb".to_owned(), "7".to_owned()], vec!["c".to_owned(), "1234".to_owned()]];
        write(&mut out, &["NAME", ">COUNT"], rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME  COUNT\na b       7\nc      1234\n");
    }
}
