//! Events for whoever subscribed. Publishing never waits: a subscriber that does not read loses events, and
//! is told how many.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Events that wait for one subscriber at most.
pub const QUEUE: usize = 1024;

/// Where events go. Called from the control thread and from the vhost library's.
#[derive(Debug, Default)]
pub struct Hub {
    subscribers: Mutex<Vec<Subscriber>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Subscriber {
    names: Vec<String>,
    queue: mpsc::Sender<Arc<str>>,
    lost: Arc<AtomicU64>,
}

/// A subscriber's end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Arc<str>>,
    lost: Arc<AtomicU64>,
}

/// One line, its newline included.
pub fn line(name: &str, data: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
    let mut line = json!({ "event": name, "data": data, "timestamp": timestamp }).to_string();
    line.push('\n');
    line
}

impl Hub {
    /// Subscribes to events by name; to all when `names` is empty.
    pub fn subscribe(&self, names: Vec<String>) -> Subscription {
        let (sender, queue) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let subscriber = Subscriber { names, queue: sender, lost: Arc::clone(&lost) };
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(subscriber);
        Subscription { queue, lost }
    }

    /// Tells everybody who wants to know.
    pub fn publish(&self, name: &str, data: Value) {
        log::debug!("event {name} {data}");
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| !s.queue.is_closed());
        let wants = |s: &&Subscriber| s.names.is_empty() || s.names.iter().any(|n| n == name);
        let mut text: Option<Arc<str>> = None;
        for subscriber in subscribers.iter().filter(wants) {
            let text = text.get_or_insert_with(|| line(name, &data).into());
            if subscriber.queue.try_send(Arc::clone(text)).is_err() {
                subscriber.lost.fetch_add(1, Relaxed);
                self.lost.fetch_add(1, Relaxed);
            }
        }
    }

    /// Events that slow subscribers lost since the process started.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

impl Subscription {
    /// The next lines: an event, behind a note of how many were lost before it. Safe to cancel.
    pub async fn next(&mut self) -> Option<String> {
        let event = self.queue.recv().await?;
        let lost = self.lost.swap(0, Relaxed);
        let note = if lost > 0 { line("lost", &json!({ "count": lost })) } else { String::new() };
        Some(note + &event)
    }

    /// The next lines if there are any.
    pub fn try_next(&mut self) -> Option<String> {
        self.queue.try_recv().ok().map(|event| event.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn a_slow_subscriber_loses_events_with_a_count_and_delays_nobody() {
        let hub = Hub::default();
        let mut slow = hub.subscribe(vec![]);
        for n in 0..QUEUE as u64 + 10 {
            hub.publish("closed", json!({ "epoch": n }));
        }
        assert_eq!(hub.lost(), 10);
        runtime().block_on(async {
            let first = slow.next().await.expect("events");
            let lines: Vec<&str> = first.lines().collect();
            assert_eq!(lines.len(), 2, "{first}");
            assert!(lines[0].contains("\"lost\"") && lines[0].contains("10"), "{first}");
            assert!(lines[1].contains("\"epoch\":0"), "{first}");
            assert_eq!(slow.next().await.expect("events").lines().count(), 1, "the note comes once");
        });
    }

    #[test]
    fn only_what_was_asked_for_arrives_and_a_dropped_subscription_is_forgotten() {
        let hub = Hub::default();
        let mut some = hub.subscribe(vec!["pressure".into()]);
        drop(hub.subscribe(vec![]));
        hub.publish("closed", json!({}));
        hub.publish("pressure", json!({}));
        let line = runtime().block_on(some.next()).expect("one");
        assert!(line.contains("pressure"));
        assert_eq!(hub.subscribers.lock().expect("sound").len(), 1);
    }
}
