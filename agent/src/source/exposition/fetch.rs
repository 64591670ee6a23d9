//! Asks exporters, all at once.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header, redirect::Policy};
use tokio::{task::JoinSet, time::timeout};

use super::{BadLine, Sample, samples};
use crate::uplink::chain;

/// An exposition is at most so long. One of a host with eight accelerators is about a tenth of a mebibyte.
pub(in crate::source) const LONGEST_BODY: usize = 16 * 1024 * 1024;

/// Makes something of the samples of one answer.
pub(in crate::source) type Read<T> = for<'a> fn(&mut dyn Iterator<Item = Sample<'a>>) -> T;

/// The exporters of a source, and what was last logged of each.
#[derive(Debug)]
pub(in crate::source) struct Exporters {
    client: Result<Client, String>,
    deadline: Duration,
    exporters: Vec<Exporter>,
}

#[derive(Debug)]
struct Exporter {
    url: Url,
    /// Whether its last answer was one.
    failed: bool,
    bad_lines: bool,
}

/// What became of one answer, and lines of it that were none.
type Answered<T> = Result<(T, usize), String>;

impl Exporters {
    /// Nothing is asked yet. An answer that takes longer than `deadline`, its last byte included, is none.
    pub(in crate::source) fn new(addresses: &[Url], deadline: Duration) -> Self {
        let client = Client::builder()
            // An answer from elsewhere is not one of the exporter that was configured.
            .redirect(Policy::none())
            // Nor may an environment variable put somebody else's machine in between.
            .no_proxy()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("cannot set up the HTTP client: {}", chain(&error)));
        let exporter = |url: &Url| Exporter { url: url.clone(), failed: false, bad_lines: false };
        Self { client, deadline, exporters: addresses.iter().map(exporter).collect() }
    }

    /// Asks all of them; the answers are in the order of the addresses. `Err` says in words why there is none.
    pub(in crate::source) async fn read<T: Send + 'static>(
        &mut self,
        read: Read<T>,
    ) -> Vec<Result<T, String>> {
        let mut asked = JoinSet::new();
        for (index, exporter) in self.exporters.iter().enumerate() {
            let (client, url, deadline) = (self.client.clone(), exporter.url.clone(), self.deadline);
            asked.spawn(async move { (index, ask(client, url, deadline, read).await) });
        }
        let mut answers: Vec<Answered<T>> =
            self.exporters.iter().map(|_| Err("the task that asked it ended".to_owned())).collect();
        while let Some(done) = asked.join_next().await {
            if let Ok((index, answer)) = done {
                answers[index] = answer;
            }
        }
        let exporters = self.exporters.iter_mut();
        exporters.zip(answers).map(|(exporter, answer)| exporter.logged(answer)).collect()
    }
}

impl Exporter {
    /// Logs what changed, once for each change.
    fn logged<T>(&mut self, answer: Answered<T>) -> Result<T, String> {
        let failed = answer.is_err();
        if std::mem::replace(&mut self.failed, failed) != failed {
            match &answer {
                Err(why) => tracing::warn!(exporter = %self.url, why, "an exporter gives no answer"),
                Ok(_) => tracing::info!(exporter = %self.url, "an exporter answers again"),
            }
        }
        let (read, bad_lines) = answer.map_err(|why| format!("{}: {why}", self.url))?;
        if std::mem::replace(&mut self.bad_lines, bad_lines > 0) != (bad_lines > 0) && bad_lines > 0 {
            tracing::warn!(exporter = %self.url, bad_lines, "lines of an exporter's answer cannot be read");
        }
        Ok(read)
    }
}

async fn ask<T>(client: Result<Client, String>, url: Url, deadline: Duration, read: Read<T>) -> Answered<T> {
    let body = timeout(deadline, get(client?, url));
    let body = body.await.map_err(|_| "no answer within the deadline".to_owned())??;
    let (mut good, mut bad_lines) = (0_usize, 0_usize);
    let mut lines = samples(&body).filter_map(|line| match line {
        Ok(sample) => {
            good += 1;
            Some(sample)
        }
        Err(BadLine) => {
            bad_lines += 1;
            None
        }
    });
    let read = read(&mut lines);
    drop(lines);
    if good == 0 && bad_lines > 0 { Err("its answer is no exposition".into()) } else { Ok((read, bad_lines)) }
}

/// The body of a good answer.
async fn get(client: Client, url: Url) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| chain(&error.without_url());
    // Of the formats that some exporters choose from, the one that is read here.
    let request = client.get(url).header(header::ACCEPT, "text/plain;version=0.0.4");
    let mut response = request.send().await.map_err(told)?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        if body.len() + chunk.len() > LONGEST_BODY {
            return Err(format!("its answer is longer than {LONGEST_BODY} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
