//! What is done next: which guest is booted, which case is run. No case is begun before there is memory for it.
//!
//! Cases that can be forked from one boot are a group. A group's boot is done once, then its cases, before another group
//! is begun, so that no more boots are kept than there are workers; meanwhile workers without a case boot other groups.
//!
//! Memory is promised, never overcommitted: a boot, and a case, may come to have all of its guest's RAM and what the VMM needs
//! besides, since a guest may change every page. A boot that is kept for its cases never changes again: it is promised what
//! RAM it has by then, until the last of them has ended. What needs more than there is runs when nothing else does.

use std::collections::{BTreeMap, VecDeque};

/// What the VMM needs beyond guest RAM at most, bytes.
const OWN_MEMORY: u64 = 150 << 20;

/// What a case needs.
#[derive(Debug)]
pub(super) struct Demand<'a> {
    /// Bytes of its guest's RAM; 0 if nothing will run.
    pub memory: u64,
    /// Cases with the same can be forked from one boot; none if it boots for itself.
    pub boot: Option<&'a [String]>,
}

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Boot the guest of a group.
    Boot(usize),
    /// Run a case.
    Case(usize),
}

/// What a worker is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Do(Job),
    /// Nothing before something that is going on has ended.
    Wait,
    /// Nothing any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unbooted,
    Booting,
    /// Cases can be begun.
    Open,
}

#[derive(Debug)]
struct Group {
    /// All of its cases, in their order.
    cases: Vec<usize>,
    waiting: VecDeque<usize>,
    running: usize,
    /// Bytes of its guest's RAM.
    memory: u64,
    stage: Stage,
    /// Memory that its boot is kept in.
    held: u64,
}

impl Group {
    /// What of it, the group `at`, can be begun.
    fn job(&self, at: usize) -> Option<Job> {
        let case = *self.waiting.front()?;
        match self.stage {
            Stage::Unbooted => Some(Job::Boot(at)),
            Stage::Booting => None,
            Stage::Open => Some(Job::Case(case)),
        }
    }
}

/// The order of all that is to be done.
#[derive(Debug)]
pub(super) struct Schedule {
    groups: Vec<Group>,
    /// By case.
    group_of: Vec<usize>,
    /// Memory that is not promised.
    free: u64,
    /// What is going on, and the memory promised to it.
    running: BTreeMap<Job, u64>,
    stopped: bool,
}

impl Schedule {
    /// Cases in their order, and the bytes of memory that there are for them.
    pub(super) fn new<'a>(demands: impl Iterator<Item = Demand<'a>>, free: u64) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = Vec::new();
        let mut by_boot = BTreeMap::new();
        for (case, demand) in demands.enumerate() {
            let new = groups.len();
            let at = demand.boot.map_or(new, |boot| *by_boot.entry(boot).or_insert(new));
            if at == new {
                groups.push(Group {
                    cases: Vec::new(),
                    waiting: VecDeque::new(),
                    running: 0,
                    memory: demand.memory,
                    stage: Stage::Unbooted,
                    held: 0,
                });
            }
            if let Some(group) = groups.get_mut(at) {
                group.cases.push(case);
                group.waiting.push_back(case);
            }
            group_of.push(at);
        }
        // A case that shares its boot with no other is that boot.
        for group in groups.iter_mut().filter(|group| group.cases.len() == 1) {
            group.stage = Stage::Open;
        }
        Self { groups, group_of, free, running: BTreeMap::new(), stopped: false }
    }

    /// Takes the next piece of work, with memory promised to it.
    pub(super) fn next(&mut self) -> Next {
        if self.stopped {
            return Next::Done;
        }
        let Some((at, job)) = self.first() else {
            // The cases of a boot that goes on are for workers that wait.
            let booting = self.running.keys().any(|job| matches!(job, Job::Boot(_)));
            return if booting { Next::Wait } else { Next::Done };
        };
        let Some(group) = self.groups.get_mut(at) else { return Next::Done };
        let need = if group.memory == 0 { 0 } else { group.memory.saturating_add(OWN_MEMORY) };
        if need > self.free && !self.running.is_empty() {
            return Next::Wait;
        }
        match job {
            Job::Boot(_) => group.stage = Stage::Booting,
            Job::Case(_) => {
                group.waiting.pop_front();
                group.running += 1;
            }
        }
        let promised = need.min(self.free);
        self.free -= promised;
        self.running.insert(job, promised);
        Next::Do(job)
    }

    /// The first piece of work that could be begun, with its group: of the groups that have been booted, else of any.
    fn first(&self) -> Option<(usize, Job)> {
        let jobs =
            || self.groups.iter().enumerate().filter_map(|(at, group)| Some((at, group, group.job(at)?)));
        let booted = jobs().find(|(_, group, _)| group.stage == Stage::Open && group.cases.len() > 1);
        booted.or_else(|| jobs().next()).map(|(at, _, job)| (at, job))
    }

    /// A boot has ended; it is kept in `held` bytes of memory for the cases of its group, which can be begun now.
    pub(super) fn booted(&mut self, group: usize, held: u64) {
        let promised = self.running.remove(&Job::Boot(group)).unwrap_or(0);
        // What could not be promised to it cannot be held by it either.
        let held = held.min(promised);
        self.free = self.free.saturating_add(promised - held);
        if let Some(group) = self.groups.get_mut(group) {
            (group.stage, group.held) = (Stage::Open, held);
        }
    }

    /// A case has ended. Returns its group if that was the last of it: its boot is not needed any more, and its memory is
    /// free after [`Schedule::release`].
    pub(super) fn ended(&mut self, case: usize) -> Option<usize> {
        self.free = self.free.saturating_add(self.running.remove(&Job::Case(case)).unwrap_or(0));
        let at = *self.group_of.get(case)?;
        let group = self.groups.get_mut(at)?;
        group.running = group.running.saturating_sub(1);
        (group.waiting.is_empty() && group.running == 0).then_some(at)
    }

    /// The boot of a group is gone.
    pub(super) fn release(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            self.free = self.free.saturating_add(std::mem::take(&mut group.held));
        }
    }

    /// The cases of a group, in their order.
    pub(super) fn cases(&self, group: usize) -> &[usize] {
        self.groups.get(group).map_or(&[], |group| &group.cases)
    }

    /// The group of a case.
    pub(super) fn group_of(&self, case: usize) -> Option<usize> {
        self.group_of.get(case).copied()
    }

    /// Nothing is begun any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 512 << 20;
    const NEED: u64 = RAM + OWN_MEMORY;

    /// A schedule of cases, each with the name of its boot, or "-".
    fn schedule(boots: &str, free: u64) -> Schedule {
        let names: Vec<_> = boots.split(' ').map(|name| [name.to_owned()]).collect();
        let boot = |name: &[String; 1]| name[0] != "-";
        Schedule::new(
            names.iter().map(|name| Demand { memory: RAM, boot: boot(name).then_some(&name[..]) }),
            free,
        )
    }

    fn case(at: usize) -> Next {
        Next::Do(Job::Case(at))
    }

    fn boot(group: usize) -> Next {
        Next::Do(Job::Boot(group))
    }

    #[test]
    fn one_worker_boots_once_for_each_group_and_runs_its_cases_together() {
        let mut all = schedule("a b a - a b c", u64::MAX);
        let mut done = Vec::new();
        loop {
            match all.next() {
                Next::Do(Job::Boot(group)) => {
                    done.push(format!("boot {:?}", all.cases(group)));
                    all.booted(group, RAM / 4);
                }
                Next::Do(Job::Case(case)) => {
                    done.push(case.to_string());
                    if let Some(group) = all.ended(case) {
                        done.push("over".into());
                        all.release(group);
                    }
                }
                Next::Wait => panic!("nothing else goes on: {done:?}"),
                Next::Done => break,
            }
        }
        let expected = [
            "boot [0, 2, 4]",
            "0",
            "2",
            "4",
            "over",
            "boot [1, 5]",
            "1",
            "5",
            "over",
            "3",
            "over",
            "6",
            "over",
        ];
        assert_eq!(done, expected);
        assert_eq!(all.free, u64::MAX);
    }

    #[test]
    fn other_workers_boot_other_groups_or_wait_for_the_cases_of_a_boot() {
        let mut all = schedule("a a a b b", u64::MAX);
        assert_eq!([all.next(), all.next(), all.next()], [boot(0), boot(1), Next::Wait]);
        all.booted(1, RAM / 4);
        assert_eq!(all.next(), case(3));
        all.booted(0, RAM / 4);
        // What is begun first is finished first.
        assert_eq!([all.next(), all.next(), all.next()], [case(0), case(1), case(2)]);
        assert_eq!([all.next(), all.next()], [case(4), Next::Done]);
        assert_eq!([all.ended(0), all.ended(2), all.ended(1)], [None, None, Some(0)]);
    }

    #[test]
    fn memory_is_never_promised_twice() {
        let held = RAM / 4;
        let mut all = schedule("a a a a", NEED + held + 100);
        assert_eq!([all.next(), all.next()], [boot(0), Next::Wait]);
        all.booted(0, held);
        assert_eq!(all.free, NEED + 100);
        assert_eq!([all.next(), all.next()], [case(0), Next::Wait], "a fork may change all of its RAM");
        assert_eq!((all.free, all.ended(0)), (100, None));
        assert_eq!([all.next(), all.next()], [case(1), Next::Wait]);
        assert_eq!(all.ended(1), None);
        assert_eq!((all.next(), all.ended(2)), (case(2), None));
        assert_eq!((all.next(), all.ended(3)), (case(3), Some(0)));
        assert_eq!(all.free, NEED + 100);
        all.release(0);
        assert_eq!((all.free, all.next()), (NEED + held + 100, Next::Done));
    }

    #[test]
    fn what_needs_more_than_there_is_runs_alone() {
        let mut all = schedule("a a - -", NEED / 2);
        assert_eq!([all.next(), all.next()], [boot(0), Next::Wait]);
        all.booted(0, RAM / 4);
        assert_eq!([all.next(), all.next()], [case(0), Next::Wait]);
        assert_eq!(all.ended(0), None);
        assert_eq!([all.next(), all.next()], [case(1), Next::Wait]);
        assert_eq!(all.ended(1), Some(0));
        all.release(0);
        assert_eq!(all.free, NEED / 2);
        assert_eq!([all.next(), all.next()], [case(2), Next::Wait]);
    }

    #[test]
    fn a_boot_that_is_not_kept_holds_nothing() {
        let mut all = schedule("a a b b", u64::MAX);
        assert_eq!(all.next(), boot(0));
        all.booted(0, 0);
        assert_eq!(all.free, u64::MAX);
        assert_eq!([all.next(), all.next(), all.next()], [case(0), case(1), boot(1)]);
    }

    #[test]
    fn nothing_is_begun_after_a_stop() {
        let mut all = schedule("a a - -", u64::MAX);
        assert_eq!(all.next(), boot(0));
        all.stop();
        assert_eq!(all.next(), Next::Done);
    }
}
