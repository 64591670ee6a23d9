//! Files of statements: reservations, declarations, topologies and the others, one kind a file.

use std::collections::BTreeMap;

use super::{Faults, ImportErrors, Placed, Row, Shape, Values, read};
use crate::statement::{Kind, Statement};

/// Reads a file of statements of one kind, with a column for each field ([`Kind::fields`]) in any order. What need not
/// be there may be blank. An id stands in the file once.
///
/// # Errors
/// Every fault in the file; nothing of it is imported then.
pub fn parse_statements(kind: Kind, file_name: &str, text: &[u8]) -> Result<Vec<Statement>, ImportErrors> {
    let shape = Shape {
        columns: kind.names(),
        optional: 0,
        values: if kind.is_sealed() { Values::Withheld } else { Values::Shown },
    };
    read(file_name, text, &shape, |row| parse(kind, row), refuse_twice)
}

fn parse(kind: Kind, row: &mut Row<'_>) -> Option<Statement> {
    let mut texts: BTreeMap<&'static str, &str> = BTreeMap::new();
    for field in kind.names() {
        texts.insert(field, row.text(field)?);
    }
    match Statement::read(kind, |field| texts.get(field).copied()) {
        Ok(statement) => Some(statement),
        Err(bad) => {
            for cell in bad {
                let value = texts.get(cell.field).copied().unwrap_or_default();
                if ["customer", "person", "reseller"].contains(&cell.field) && !value.is_empty() {
                    // A name where a number should be.
                    let problem = format!("the value (withheld) does not fit, expected {}", cell.expected);
                    row.faults.add(row.line, Some(cell.field), problem);
                } else {
                    row.fault(cell.field, value, cell.expected);
                }
            }
            None
        }
    }
}

fn refuse_twice(rows: &[Placed<Statement>], faults: &mut Faults) {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for Placed { line, row } in rows {
        let before = *first.entry(row.id()).or_insert(*line);
        if before != *line {
            let problem = format!("the same id as on line {before}, expected each once");
            faults.add(*line, Some("id"), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_file_is_read_in_any_order_of_its_columns() {
        let text = "to,id,host,datacenter,fabric,gbit_per_s,from\n\
                    ,T-1,gpu-1,dc-1,ib-1,400,2026-01-01T00:00:00Z\n";
        let read = parse_statements(Kind::Topology, "topologies.csv", text.as_bytes()).unwrap();
        expect![[r#"[{"id":"T-1","host":"gpu-1","datacenter":"dc-1","fabric":"ib-1","gbit_per_s":"400","from":"2026-01-01T00:00:00Z"}]"#]]
            .assert_eq(&serde_json::to_string(&read).unwrap());
    }

    #[test]
    fn faults_name_line_column_value_and_expectation_and_never_what_a_customer_declares() {
        let text = "id,customer,model,count,from,to,site,value\n\
                    R-1,C-1,H200,many,2026-01-01T00:00:00Z,,,\n\
                    R-1,C-1,H200,8,2026-01-01T00:00:00Z,2025-01-01T00:00:00Z,,\n\
                    R-2,C-1,H200,8,2026-01-01T00:00:00Z,,,\n\
                    R-2,C-1,H200,8,2026-01-01T00:00:00Z,,,\n";
        expect![[r#"
            reservations.csv is not imported, for 3 faults:
            reservations.csv:2: count: "many", expected a whole number from 1 to 1,000,000
            reservations.csv:3: to: "2025-01-01T00:00:00Z", expected not before the beginning
            reservations.csv:5: id: the same id as on line 4, expected each once"#]]
        .assert_eq(
            &parse_statements(Kind::Reservation, "reservations.csv", text.as_bytes())
                .unwrap_err()
                .to_string(),
        );

        let header = Kind::Declaration.names().join(",");
        let row = "D-1,C-1,secret purpose,,maybe,,,,,,,,Jane Doe,\n";
        let error =
            parse_statements(Kind::Declaration, "d.csv", format!("{header}\n{row}").as_bytes()).unwrap_err();
        expect![[r#"
            d.csv is not imported, for 2 faults:
            d.csv:2: biological_sequence_data: the value (withheld) does not fit, expected yes or no
            d.csv:2: signed_on: blank, expected a date as 1970-05-12, 1970-05 or 1970"#]]
        .assert_eq(&error.to_string());
    }
}
