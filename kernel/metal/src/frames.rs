//! The bookkeeping of physical pages: contiguous runs of any length, each charged to an owner.
//!
//! A binary buddy system over an array with one entry a page. A run is cut from a block of the next power of two
//! and the rest given back, so nothing is wasted and everything is O(log n). Runs of one owner are linked, so that a
//! dead owner's pages are given back without a search; an owner without pages takes no space.
//!
//! The book itself must not allocate (the kernel's heap grows through it): both arrays are handed in.

/// Number of a physical page: its address divided by 4,096.
pub type Frame = u32;

/// Blocks of up to 2^20 pages (4 GiB).
const ORDERS: usize = 21;
const NONE: u32 = u32::MAX;

/// What the book knows of one page. Only the first page of a free block or of a run has more than an owner.
#[derive(Clone, Copy)]
pub struct Page {
    owner: u32,
    next: u32,
    previous: u32,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Not RAM, or not given to us.
    Absent,
    /// Inside a block or run whose first page is further down.
    Inside,
    /// First page of a free block.
    Free { order: u8 },
    /// First page of a run.
    Run { pages: u32 },
}

impl Page {
    pub const ABSENT: Self = Self { owner: 0, next: NONE, previous: NONE, role: Role::Absent };
}

/// What the book knows of one owner.
#[derive(Clone, Copy)]
pub struct Account {
    owner: u32,
    pages: u32,
    first_run: u32,
}

impl Account {
    pub const EMPTY: Self = Self { owner: 0, pages: 0, first_run: NONE };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// No free block is long enough.
    OutOfPages,
    /// More owners hold pages at the same time than there is room for.
    TooManyOwners,
    /// The frame isn't the first page of a run, or the run has another owner.
    NotARun,
}

pub struct Frames<'a> {
    pages: &'a mut [Page],
    free: [u32; ORDERS],
    free_pages: usize,
    accounts: &'a mut [Account],
    /// Accounts in use: the first ones, sorted by owner.
    owners: usize,
}

impl<'a> Frames<'a> {
    /// A book over frames `0..pages.len()`, all absent so far.
    pub fn new(pages: &'a mut [Page], accounts: &'a mut [Account]) -> Self {
        pages.fill(Page::ABSENT);
        Self { pages, free: [NONE; ORDERS], free_pages: 0, accounts, owners: 0 }
    }

    /// Hands the frames `start..end` to the book; those that it has already are left alone.
    pub fn add(&mut self, start: Frame, end: Frame) {
        let end = end.min(self.pages.len() as u32);
        let mut from = start;
        while from < end {
            if self.pages[from as usize].role != Role::Absent {
                from += 1;
                continue;
            }
            let until = (from..end).find(|frame| self.pages[*frame as usize].role != Role::Absent).unwrap_or(end);
            self.give_back(from, until - from);
            from = until;
        }
    }

    pub fn free_pages(&self) -> usize {
        self.free_pages
    }

    pub fn pages_of(&self, owner: u32) -> usize {
        self.account(owner).map_or(0, |index| self.accounts[index].pages as usize)
    }

    /// All owners that hold pages, with their number of pages.
    pub fn holders(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.accounts[..self.owners].iter().map(|account| (account.owner, account.pages as usize))
    }

    /// Takes a run of `count` pages (at least one).
    pub fn allocate(&mut self, count: u32, owner: u32) -> Result<Frame, FrameError> {
        let wanted = count.max(1).checked_next_power_of_two().ok_or(FrameError::OutOfPages)?.trailing_zeros() as usize;
        let order = (wanted..ORDERS).find(|order| self.free[*order] != NONE).ok_or(FrameError::OutOfPages)?;
        let account = self.open_account(owner)?;
        let frame = self.free[order];
        self.unlink_block(frame, order);
        let count = count.max(1);
        self.free_pages -= 1 << order;
        self.give_back(frame + count, (1 << order) - count);

        let head = self.accounts[account].first_run;
        for inside in frame..frame + count {
            self.pages[inside as usize] = Page { owner, next: NONE, previous: NONE, role: Role::Inside };
        }
        self.pages[frame as usize] = Page { owner, next: head, previous: NONE, role: Role::Run { pages: count } };
        if head != NONE {
            self.pages[head as usize].previous = frame;
        }
        self.accounts[account].first_run = frame;
        self.accounts[account].pages += count;
        Ok(frame)
    }

    /// Gives a run back; says how many pages it had.
    pub fn free(&mut self, frame: Frame, owner: u32) -> Result<u32, FrameError> {
        let page = *self.pages.get(frame as usize).ok_or(FrameError::NotARun)?;
        let Role::Run { pages: count } = page.role else { return Err(FrameError::NotARun) };
        if page.owner != owner {
            return Err(FrameError::NotARun);
        }
        let account = self.account(owner).ok_or(FrameError::NotARun)?;
        match page.previous {
            NONE => self.accounts[account].first_run = page.next,
            previous => self.pages[previous as usize].next = page.next,
        }
        if page.next != NONE {
            self.pages[page.next as usize].previous = page.previous;
        }
        self.accounts[account].pages -= count;
        if self.accounts[account].pages == 0 {
            self.accounts.copy_within(account + 1..self.owners, account);
            self.owners -= 1;
        }
        self.give_back(frame, count);
        Ok(count)
    }

    /// Gives back everything that `owner` holds; says how many pages that was.
    pub fn free_all_of(&mut self, owner: u32) -> usize {
        let mut freed = 0;
        while let Some(account) = self.account(owner) {
            match self.free(self.accounts[account].first_run, owner) {
                Ok(count) => freed += count as usize,
                Err(error) => unreachable!("the runs of owner {owner} are linked wrongly: {error:?}"),
            }
        }
        freed
    }

    fn account(&self, owner: u32) -> Option<usize> {
        self.accounts[..self.owners].binary_search_by_key(&owner, |account| account.owner).ok()
    }

    fn open_account(&mut self, owner: u32) -> Result<usize, FrameError> {
        match self.accounts[..self.owners].binary_search_by_key(&owner, |account| account.owner) {
            Ok(index) => Ok(index),
            Err(_) if self.owners == self.accounts.len() => Err(FrameError::TooManyOwners),
            Err(index) => {
                self.accounts.copy_within(index..self.owners, index + 1);
                self.accounts[index] = Account { owner, ..Account::EMPTY };
                self.owners += 1;
                Ok(index)
            }
        }
    }

    /// Cuts a range into aligned blocks and frees each.
    fn give_back(&mut self, mut frame: Frame, mut count: u32) {
        while count > 0 {
            let order = frame.trailing_zeros().min(count.ilog2()).min(ORDERS as u32 - 1);
            self.free_block(frame, order as usize);
            frame += 1 << order;
            count -= 1 << order;
        }
    }

    /// Frees an aligned block, joined with its buddy for as long as that one is free and whole.
    fn free_block(&mut self, mut frame: Frame, mut order: usize) {
        self.free_pages += 1 << order;
        for inside in frame..frame + (1 << order) {
            self.pages[inside as usize].role = Role::Inside;
        }
        while order + 1 < ORDERS {
            let buddy = frame ^ (1 << order);
            let whole = self.pages.get(buddy as usize).map(|page| page.role);
            if whole != Some(Role::Free { order: order as u8 }) {
                break;
            }
            self.unlink_block(buddy, order);
            self.pages[buddy as usize].role = Role::Inside;
            frame = frame.min(buddy);
            order += 1;
        }
        let head = self.free[order];
        self.pages[frame as usize] =
            Page { owner: 0, next: head, previous: NONE, role: Role::Free { order: order as u8 } };
        if head != NONE {
            self.pages[head as usize].previous = frame;
        }
        self.free[order] = frame;
    }

    fn unlink_block(&mut self, frame: Frame, order: usize) {
        let page = self.pages[frame as usize];
        match page.previous {
            NONE => self.free[order] = page.next,
            previous => self.pages[previous as usize].next = page.next,
        }
        if page.next != NONE {
            self.pages[page.next as usize].previous = page.previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(pages: usize, owners: usize) -> Frames<'static> {
        let pages = vec![Page::ABSENT; pages].leak();
        Frames::new(pages, vec![Account::EMPTY; owners].leak())
    }

    /// A small generator of our own seed, so that a failure repeats.
    struct Dice(u64);
    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % limit
        }
    }

    /// Random runs of three owners never overlap, are charged exactly, and after freeing everything the memory is one
    /// block again (nothing lost, everything joined).
    #[test]
    fn runs_never_overlap_and_everything_comes_back() {
        let mut book = book(4096 + 5, 8);
        book.add(1, 4096);
        let all = book.free_pages();
        assert_eq!(all, 4095);
        let mut dice = Dice(7);
        let mut runs: Vec<(u32, u32, u32)> = Vec::new();
        for _ in 0..20_000 {
            if dice.below(2) == 0 || runs.is_empty() {
                let (count, owner) = (1 + dice.below(40) as u32, dice.below(3) as u32 + 5);
                if let Ok(frame) = book.allocate(count, owner) {
                    assert!(frame >= 1 && frame + count <= 4096);
                    assert!(runs.iter().all(|(other, length, _)| frame + count <= *other || other + length <= frame));
                    runs.push((frame, count, owner));
                }
            } else {
                let (frame, count, owner) = runs.swap_remove(dice.below(runs.len() as u64) as usize);
                assert_eq!(book.free(frame, owner), Ok(count));
            }
            for owner in 5..8 {
                let held: u32 = runs.iter().filter(|run| run.2 == owner).map(|run| run.1).sum();
                assert_eq!(book.pages_of(owner), held as usize);
            }
        }
        let held: u32 = runs.iter().map(|run| run.1).sum();
        assert_eq!(book.free_pages() + held as usize, all);
        for owner in 5..8 {
            let held: u32 = runs.iter().filter(|run| run.2 == owner).map(|run| run.1).sum();
            assert_eq!(book.free_all_of(owner), held as usize);
        }
        assert_eq!(book.free_pages(), all);
        assert_eq!(book.holders().count(), 0);
        assert_eq!(book.allocate(2048, 1), Ok(2048));
    }

    /// Only the owner, and only with the run's first page, gives a run back.
    #[test]
    fn free_refuses_what_is_not_a_run() {
        let mut book = book(64, 2);
        book.add(0, 64);
        let frame = book.allocate(4, 9).unwrap();
        assert_eq!(book.free(frame + 1, 9), Err(FrameError::NotARun));
        assert_eq!(book.free(frame, 8), Err(FrameError::NotARun));
        assert_eq!(book.free(1_000, 9), Err(FrameError::NotARun));
        assert_eq!(book.free(frame, 9), Ok(4));
        assert_eq!(book.free(frame, 9), Err(FrameError::NotARun));
    }

    /// Holes and doubly reported memory stay out; running dry is an error that changes nothing.
    #[test]
    fn holes_and_exhaustion() {
        let mut book = book(64, 2);
        book.add(0, 10);
        book.add(8, 12);
        book.add(20, 200);
        assert_eq!(book.free_pages(), 12 + 44);
        assert_eq!(book.allocate(33, 1), Err(FrameError::OutOfPages));
        book.allocate(1, 1).unwrap();
        book.allocate(1, 2).unwrap();
        assert_eq!(book.allocate(1, 3), Err(FrameError::TooManyOwners));
        assert_eq!(book.free_pages(), 54);
    }
}
