//! What is kept by namespace. There is a handful of them: they stand in the order of their names and are found by looking, which takes
//! less than a tree whose every step compares two texts.

use crate::cluster::Ns;

pub(super) struct ByNs<T>(Vec<(Ns, T)>);

impl<T> Default for ByNs<T> {
    fn default() -> Self {
        ByNs(Vec::new())
    }
}

impl<T> ByNs<T> {
    fn place(&self, ns: &Ns) -> Option<usize> {
        // Other lengths are other names: nearly all are told apart without their bytes.
        self.0.iter().position(|(n, _)| n == ns)
    }

    pub(super) fn get(&self, ns: &Ns) -> Option<&T> {
        self.place(ns).map(|i| &self.0[i].1)
    }

    pub(super) fn get_mut(&mut self, ns: &Ns) -> Option<&mut T> {
        self.place(ns).map(|i| &mut self.0[i].1)
    }

    pub(super) fn contains_key(&self, ns: &Ns) -> bool {
        self.place(ns).is_some()
    }

    /// What is there, put there first when nothing is.
    pub(super) fn get_or(&mut self, ns: &Ns, make: impl FnOnce() -> T) -> &mut T {
        let i = self.place(ns).unwrap_or_else(|| {
            let i = self.0.partition_point(|(n, _)| n < ns);
            self.0.insert(i, (ns.clone(), make()));
            i
        });
        &mut self.0[i].1
    }

    /// Puts it there, in the place of whatever is there.
    pub(super) fn insert(&mut self, ns: Ns, what: T) {
        match self.place(&ns) {
            Some(i) => self.0[i].1 = what,
            None => {
                let i = self.0.partition_point(|(n, _)| *n < ns);
                self.0.insert(i, (ns, what));
            }
        }
    }

    pub(super) fn remove(&mut self, ns: &Ns) -> Option<T> {
        self.place(ns).map(|i| self.0.remove(i).1)
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Ns, &T)> {
        self.0.iter().map(|(ns, what)| (ns, what))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, what)| what)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stands_in_the_order_of_names_however_it_came() {
        let mut all = ByNs::default();
        for (i, name) in ["s.b", "s.c", "a.z", "s.a", "s.c"].into_iter().enumerate() {
            let ns = Ns::parse(name).unwrap_or_else(|| Ns::new(name, name));
            *all.get_or(&ns, || 0) += i;
        }
        let ns = Ns::new("s", "a");
        all.insert(ns.clone(), 9);
        let found: Vec<(String, usize)> = all.iter().map(|(n, i)| (n.to_string(), *i)).collect();
        let want = [("a.z", 2), ("s.a", 9), ("s.b", 0), ("s.c", 5)].map(|(n, i)| (n.to_owned(), i));
        assert_eq!(found, want);
        assert_eq!(
            (all.remove(&ns), all.remove(&ns), all.contains_key(&ns), all.values().count()),
            (Some(9), None, false, 3)
        );
    }
}
