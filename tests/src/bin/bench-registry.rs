//! How long a real collector takes to import 100,000 customers, to start with them, and to find one of them by what
//! identifies it. A number as argument takes another count of customers. Talks to loopback only; ends by itself.
//!
//! Look-ups go one after the other over one connection. Each is an act that is recorded: the answer comes after the
//! record is durable and reflected. So the time of a record alone is measured beside it, as a hold that is set.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use weighbridge_tests::{
    collector::Collector,
    http::{Answer, Connection},
    wait,
};

const CUSTOMERS: usize = 100_000;
const LOOKS: usize = 1_000;

fn main() {
    let customers =
        std::env::args().nth(1).map_or(CUSTOMERS, |count| count.parse().expect("a number of customers"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = Collector::prepare(folder.path(), "");
    collector.start_ready();
    let token = collector.run(&["token"]).stdout.trim().to_owned();

    let csv = csv(customers);
    println!("{customers} customers, {} MB of CSV", csv.len() / 1_000_000);
    for (what, recorded) in [("imported", customers), ("imported again, which changes nothing", 0)] {
        let begun = wait::instant();
        let answer = Desk::open(&collector, &token).call("POST", "import/customers", csv.as_bytes());
        let took = begun.elapsed();
        assert_eq!(answer["recorded"], recorded, "{answer}");
        println!("{what}: {:.1} s", took.as_secs_f64());
    }
    let status = |collector: &Collector| {
        let id = collector.id().expect("it runs");
        std::fs::read_to_string(format!("/proc/{id}/status")).expect("the collector runs")
    };
    looked_up(&collector, &token, customers);
    println!("most memory: {}", peak(&status(&collector)));

    collector.stop();
    let begun = wait::instant();
    collector.start_ready();
    println!("a start until it serves: {:.1} s", begun.elapsed().as_secs_f64());
    let mut desk = Desk::open(&collector, &token);
    wait::until("the index is made", || {
        let answer = desk.answer("POST", "find", sought("email", &email(1)).to_string().as_bytes());
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    println!("until every customer is found: {:.1} s", begun.elapsed().as_secs_f64());
    println!("most memory: {}", peak(&status(&collector)));
}

fn peak(status: &str) -> String {
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("unknown");
    line.trim_start_matches("VmHWM:").trim().to_owned()
}

fn email(number: usize) -> String {
    format!("customer-{number}@domain-{}.example", number % 1_000)
}

fn csv(customers: usize) -> String {
    let mut text = "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access\n".to_owned();
    for number in 0..customers {
        let kind = if number % 3 == 0 { "person" } else { "entity" };
        writeln!(
            text,
            "C-{number},{kind},foreign,,Customer Number {number},{number} Long Street,Ruritania,Bank {},wallet-{number},{},+99 555 {number:07},192.0.2.7@2026-01-31T08:00:00Z",
            number % 50,
            email(number),
        )
        .expect("a string takes everything");
    }
    text
}

fn sought(by_its: &str, text: &str) -> Value {
    json!({ "by_its": by_its, "text": text, "actor": "bench", "reason": "to measure" })
}

fn looked_up(collector: &Collector, token: &str, customers: usize) {
    let mut desk = Desk::open(collector, token);
    for by_its in ["name", "email", "telephone", "payment_source", "address"] {
        let mut times: Vec<Duration> = (0..LOOKS)
            .map(|look| {
                let number = look * 7_919 % customers;
                let text = match by_its {
                    "name" => format!("customer number {number}"),
                    "email" => email(number),
                    "telephone" => format!("+99 555 {number:07}"),
                    "payment_source" => format!("wallet-{number}"),
                    _ => format!("{number} long street"),
                };
                let asked = sought(by_its, &text).to_string();
                let begun = wait::instant();
                let answer = desk.call("POST", "find", asked.as_bytes());
                let took = begun.elapsed();
                assert_eq!(answer["parties"], json!([format!("C-{number}")]));
                took
            })
            .collect();
        println!("found by {by_its}: {}", spread(&mut times));
    }
    let hold = json!({ "actor": "bench", "reason": "to measure" }).to_string();
    let mut times: Vec<Duration> = (0..LOOKS)
        .map(|_| {
            let begun = wait::instant();
            desk.call("POST", "parties/C-1/hold", hold.as_bytes());
            begun.elapsed()
        })
        .collect();
    println!("a record alone: {}", spread(&mut times));
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms", at(50), at(99))
}

struct Desk {
    connection: Connection,
    bearer: String,
}

impl Desk {
    fn open(collector: &Collector, token: &str) -> Self {
        let connection = Connection::open(collector.http()).expect("the collector listens");
        Self { connection, bearer: format!("Bearer {token}") }
    }

    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let headers = [("authorization", self.bearer.as_str())];
        let path = format!("/api/v1/{path}");
        self.connection.request(method, &path, &headers, body).expect("the collector answers")
    }

    fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Value {
        let answer = self.answer(method, path, body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    }
}
