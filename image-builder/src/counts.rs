//! All that is counted in a box, as its console's command `domains` says it.

use std::fmt;

/// What may be in hands more than before: bytes on the exchange heap, packet buffers, handles, pages. An object, a buffer, a handle or a page that leaks in each restart, of one kind of
/// domain alone, exceeds it within some hundred rounds; a record of 64 bytes within a leg.
const IN_HANDS: [u64; 4] = [64 << 10, 96, 24, 128];
/// Pages that a domain may have more than before. A heap keeps those of its highest use, which depends on what comes first: a balancer that hears of a backend late builds one lookup
/// table more, 33 pages. A page that stays a domain's in each restart exceeds it within as many rounds.
const HIGHER: u64 = 64;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub rows: Vec<Row>,
    /// Pages used, those of them that the exchange heap has, and free ones; packet buffers, free ones, and those in rings; handles.
    sums: [u64; 7],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    pub state: String,
    pub generation: u64,
    pub pages: u64,
    pub threads: u64,
    /// Bytes on the exchange heap.
    pub exchange: u64,
    pub death: String,
}

impl Counts {
    /// The last table in what a console has said, if it is all there.
    pub fn read(said: &str) -> Option<Counts> {
        let (_, table) = said.rsplit_once("last death")?;
        let mut lines = table.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let mut rows = Vec::new();
        loop {
            let line = lines.next()?;
            if line.starts_with("pages: ") {
                let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
                return Some(Counts { rows, sums: numbers.collect::<Vec<_>>().try_into().ok()? });
            }
            let mut words = line.split_whitespace();
            let (name, state) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut number = || words.next()?.parse::<u64>().ok();
            let (generation, _restarts) = (number()?, number()?);
            let (pages, threads, exchange) = (number()?, number()?, number()?);
            rows.push(Row {
                name,
                state,
                generation,
                pages,
                threads,
                exchange,
                death: words.collect::<Vec<_>>().join(" "),
            });
        }
    }

    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    pub fn names(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.name.as_str()).collect()
    }

    /// Whether nothing has grown since. A domain must have its threads, and pages as it had (see `HIGHER`); what passes from hand to hand may differ by what is in hands at a time: a batch that waits for
    /// frames, with what it has brought; a frame that waits for a neighbour; a handle that somebody hasn't let go of yet; records of the kernel's for as many deaths at a time as there
    /// have been. The exchange heap keeps the pages that it has had.
    pub fn is_as(&self, before: &Counts) -> bool {
        fn own(counts: &Counts) -> Vec<(&str, &str, u64)> {
            counts.rows.iter().map(|row| (&*row.name, &*row.state, row.threads)).collect()
        }
        fn passing(counts: &Counts) -> [u64; 4] {
            let exchange = counts.rows.iter().map(|row| row.exchange).sum();
            let [used, heap, _, buffers, free, in_rings, handles] = counts.sums;
            [exchange, buffers.saturating_sub(free + in_rings), handles, used.saturating_sub(heap)]
        }
        let grown = passing(self).into_iter().zip(passing(before)).zip(IN_HANDS);
        let mut pages = self.rows.iter().zip(&before.rows).map(|(now, then)| (now.pages, then.pages));
        own(self) == own(before)
            && pages.all(|(now, then)| now <= then + HIGHER)
            && grown.into_iter().all(|((now, then), more)| now <= then + more)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, state, generation, pages, threads, exchange, death } in &self.rows {
            writeln!(
                f,
                "  {name} {state} in generation {generation}: {pages} pages, {threads} threads, {exchange} bytes; {death}"
            )?;
        }
        let [used, heap, free, buffers, free_buffers, in_rings, handles] = self.sums;
        write!(
            f,
            "  pages: {used} used, {heap} of them by the exchange heap, {free} free; packet buffers: {buffers}, {free_buffers} free, {in_rings} in rings; handles: {handles}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "domain           state       generation restarts   pages threads  exchange  last death\n\
        ixgbe0           live                 3        2      70       3      4096  panic in generation 2, cpu 0, ixgbe0: a word\n\
        lb               live                 1        0     704       2         0  \n\
        pages: 9000 used, 40 of them by the exchange heap, 50 free; packet buffers: 8192, 7100 free, 1024 in rings; handles: 12\n";

    /// What the console says is read as it is written; whatever must stay is looked at, what must change isn't, and what may be in hands isn't either, but what grows is.
    #[test]
    fn every_count_is_compared() {
        let counts = Counts::read(SAID).unwrap();
        assert_eq!(counts.names(), ["ixgbe0", "lb"]);
        assert!(counts.row("ixgbe0").unwrap().death.starts_with("panic in generation 2"));
        let other = |from: &str, to: &str| {
            assert!(SAID.contains(from), "{from}");
            Counts::read(&SAID.replace(from, to)).unwrap()
        };
        for (from, to) in [
            (" 3        2 ", " 4        3 "),
            ("panic in generation 2", "killed in generation 3"),
            ("9000 used, 40", "9003 used, 43"),
            ("7100 free, 1024", "7099 free, 1023"),
            ("4096", "8192"),
            ("9000", "9032"),
            ("handles: 12", "handles: 14"),
            ("704", "737"),
        ] {
            assert!(other(from, to).is_as(&counts), "{from}");
        }
        for (from, to) in [
            ("70 ", "170 "),
            (" 2         0 ", " 3         0 "),
            ("lb               live", "lb               stopped"),
            ("9000", "9201"),
            ("4096", "94096"),
            ("7100", "6900"),
            ("handles: 12", "handles: 112"),
        ] {
            assert!(!other(from, to).is_as(&counts), "{from}");
        }
        assert_eq!(Counts::read("error: no such command"), None);
        assert_eq!(
            Counts::read(&format!("{SAID}redleaf> domains\n{}", &SAID[..300])),
            None,
            "the last one isn't all there"
        );
    }
}
