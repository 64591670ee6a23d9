//! Says once what happened to the spool, to whoever reads logs and to Prometheus.

use crate::{
    metrics::Metrics,
    spool::{Spool, SpoolEvent},
};

/// Fetches what happened since the last call, and says it.
pub(crate) fn tell(spool: &mut Spool, metrics: Option<&Metrics>) {
    for event in spool.events() {
        match &event {
            SpoolEvent::NotOpened(problem) => tracing::error!(
                problem,
                "the spool cannot be opened: records wait in memory until it can, then become gaps"
            ),
            SpoolEvent::Damaged { epoch, problem } => tracing::error!(
                %epoch,
                problem,
                "an epoch of the spool is damaged: what can be read is sent, the rest is told as lost"
            ),
            SpoolEvent::Quarantined { file, bytes } => tracing::error!(
                file = %file.display(),
                bytes,
                "a file of the spool holds bytes that are no batch: it is kept in the quarantine, look into it"
            ),
            SpoolEvent::Lost(loss) => tracing::error!(
                epoch = %loss.epoch,
                first = loss.first,
                last = loss.last,
                cause = loss.cause.as_str(),
                "batches will not be delivered: the next batch tells the collector"
            ),
            SpoolEvent::IndexRebuilt(problem) => {
                tracing::error!(problem, "the list of epochs was made anew from what lies in the spool")
            }
            SpoolEvent::AskedInVain { epoch, first } => tracing::error!(
                %epoch,
                first,
                "the collector asks again and again for a batch that it was sent: it is not sent any more"
            ),
        }
        if let Some(metrics) = metrics {
            metrics.spool_event(&event);
        }
    }
}
