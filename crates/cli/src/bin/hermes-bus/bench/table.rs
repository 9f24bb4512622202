//! The report for people: a table that is Markdown as well, so that it can be pasted.

use hermes_bus::screen::harmless_line;
use hermes_bus_bench::{Report, Row, Spread, show_bytes, with_commas};

/// All that is printed.
pub(crate) fn lines(report: &Report) -> Vec<String> {
    let mut lines = head(report);
    lines.push(String::new());
    lines.extend(table(&report.results));
    lines.push(String::new());
    lines.extend(notes(report));
    lines
}

/// What was measured on what.
fn head(report: &Report) -> Vec<String> {
    let about = &report.about;
    let (machine, bus, settings) = (&about.machine, &about.bus, &report.settings);
    let server = bus.server.as_deref().unwrap_or("a bus that does not say its version");
    let whose = if bus.is_private { "private buses" } else { "a bus that runs" };
    let how_long = match (settings.duration, settings.messages) {
        (Some(duration), Some(messages)) => {
            format!("{duration:?}, at most {} messages", with_commas(messages))
        }
        (Some(duration), None) => format!("{duration:?}"),
        (None, messages) => format!("{} messages", with_commas(messages.unwrap_or(0))),
    };
    let rounds = match settings.rounds {
        1 => "1 round".to_owned(),
        rounds => format!("medians of {rounds} rounds"),
    };
    let cpu = machine.cpu.as_deref().map(|cpu| format!(" ({cpu})")).unwrap_or_default();
    let store = bus.file_system.as_deref().map(|kind| format!(", store on {kind}"));
    let (server, place, cpu) =
        (harmless_line(server), harmless_line(&bus.place), harmless_line(&cpu));
    vec![
        format!("{server} ({whose} in {place}), bench {}: {rounds} of {how_long}", about.version),
        format!(
            "{} cores{cpu}, {}, {}{}; {}",
            machine.cores,
            machine.architecture,
            harmless_line(&machine.kernel),
            store.unwrap_or_default(),
            about.started_at
        ),
    ]
}

const HEADINGS: [&str; 10] =
    ["work", "size", "messages/s", "MB/s", "p50", "p99", "p99.9", "max", "CPU each", "memory"];
/// Columns of words; the others are of numbers.
const WORDS: usize = 1;

fn table(rows: &[Row]) -> Vec<String> {
    let mut cells: Vec<Vec<String>> = vec![HEADINGS.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(row_cells));
    let width = |column: usize| {
        cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < WORDS { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let rules = widths.iter().enumerate().map(|(column, width)| {
        if column < WORDS { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
    });
    let rule = format!("| {} |", rules.collect::<Vec<_>>().join(" | "));
    let mut lines: Vec<String> = cells.iter().map(line).collect();
    lines.insert(1, rule);
    lines
}

fn row_cells(row: &Row) -> Vec<String> {
    let nothing = String::new;
    let latency = row.latency.as_ref();
    let time =
        |spread: Option<Spread>| spread.map_or_else(nothing, |spread| show_time(spread.median));
    let rated = row.messages_per_s.filter(|_| row.is_rate_of_interest());
    let rate = |spread: Spread| {
        with_spread(with_commas(spread.median.round() as u64), &spread, row.rounds)
    };
    let bytes = row.bytes_per_s.filter(|_| rated.is_some());
    let bytes = bytes.map_or_else(nothing, |bytes| format!("{:.1}", bytes.median / 1e6));
    let p50 = latency.and_then(|latency| latency.p50_us);
    let p50 = p50.map_or_else(nothing, |p50| with_spread(show_time(p50.median), &p50, row.rounds));
    let max = latency.and_then(|latency| latency.max_us).map(|spread| show_time(spread.max));
    let cpu = row.daemon_cpu_us_per_message.map(|cpu| show_time(cpu.median));
    let memory = row.daemon_peak_bytes.map(|peak| show_bytes(round_up_mib(peak.max)));
    vec![
        row.title.clone(),
        row.size(),
        rated.map_or_else(nothing, rate),
        bytes,
        p50,
        time(latency.and_then(|latency| latency.p99_us)),
        time(latency.and_then(|latency| latency.p99_9_us)),
        max.unwrap_or_default(),
        cpu.unwrap_or_default(),
        memory.unwrap_or_default(),
    ]
}

/// To a tenth of a MiB, as it is shown.
fn round_up_mib(bytes: f64) -> u64 {
    const TENTH: f64 = (1 << 20) as f64 / 10.0;
    ((bytes / TENTH).ceil() * TENTH) as u64
}

fn with_spread(shown: String, spread: &Spread, rounds: usize) -> String {
    if rounds < 2 {
        return shown;
    }
    format!("{shown} ±{:.0}%", spread.deviation() * 100.0)
}

/// Microseconds, with three digits that count.
fn show_time(micros: f64) -> String {
    let (number, unit) = match micros {
        ..1.0 => (micros * 1e3, "ns"),
        ..1e3 => (micros, "µs"),
        ..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = match number {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$} {unit}")
}

/// What a reader must know besides.
fn notes(report: &Report) -> Vec<String> {
    let mut notes = vec![
        "±: the farthest round from the median. CPU each: processor time of the daemon for a delivery. memory: \
         its peak."
            .to_owned(),
    ];
    for row in &report.results {
        if let Some(idle) = &row.idle {
            notes.push(idle_note(idle));
        }
        if let Some(steady) = &row.steady
            && !steady.sender_kept_the_rate
        {
            let sent = steady.sent_per_s.map_or(0, |sent| sent.median as u64);
            notes.push(format!(
                "{}: the sender itself could not keep the rate (it sent {}/s): the latencies are those of an \
                 overloaded machine.",
                row.title,
                with_commas(sent)
            ));
        }
        let is_durable = row.workload == hermes_bus_bench::Workload::Durable.name();
        if is_durable && report.about.bus.file_system.as_deref() == Some("tmpfs") {
            notes.push(format!(
                "{}: the store was in memory (tmpfs), not on a disk; --dir DIR puts it elsewhere.",
                row.title
            ));
        }
    }
    for left_out in &report.left_out {
        let detail = harmless_line(&left_out.detail);
        notes.push(format!("{} is left out: {detail}.", left_out.workload));
    }
    notes
}

fn idle_note(idle: &hermes_bus_bench::IdleRow) -> String {
    let opened = idle.connections_per_s.map_or(0, |rate| rate.median as u64);
    let each = idle.daemon_bytes_per_connection.map_or_else(
        || "their memory is not known".to_owned(),
        |each| format!("{} of the daemon's memory each", show_bytes(each.median.round() as u64)),
    );
    let fewer = idle.ended_by.as_ref().map_or_else(String::new, |why| {
        format!(
            "; of {} that were asked for: {}",
            with_commas(idle.connections_asked),
            harmless_line(why)
        )
    });
    format!(
        "{} idle sessions: {each}, opened at {}/s{fewer}.",
        with_commas(idle.connections),
        with_commas(opened)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.345, 1.2345, 18.22, 234.5, 1_234.0, 2_500_000.0].map(show_time);
        assert_eq!(shown, ["345 ns", "1.23 µs", "18.2 µs", "234 µs", "1.23 ms", "2.50 s"]);
    }

    #[test]
    fn a_spread_is_shown_where_there_are_rounds() {
        let spread = Spread { median: 100.0, min: 95.0, max: 112.0 };
        assert_eq!(with_spread("100".to_owned(), &spread, 3), "100 ±12%");
        assert_eq!(with_spread("100".to_owned(), &spread, 1), "100");
    }
}
