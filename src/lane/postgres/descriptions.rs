//! Row descriptions seen before: what their columns are, how they are recorded, how their rows are masked. The same
//! statement is described over and over, on one session or on many.

use std::cell::RefCell;
use std::fmt;
use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::FixedState;
use lockgate_codecs::postgres::Malformed;
use lockgate_codecs::postgres::backend;
use lockgate_mask::{ColumnShape, Plan};
use lockgate_recording::{Column, Columns};

use crate::Standing;

/// Descriptions kept. One that comes takes the place of another with the same number.
const SLOTS: usize = 256;
/// Longest description that is kept, in bytes.
const BODY_BYTES_MAX: usize = 4096;

/// One RowDescription, read under one set of masks.
pub(super) struct Description {
    standing: Under,
    body: Box<[u8]>,
    pub(super) shapes: Vec<ColumnShape>,
    pub(super) recorded: Columns,
    /// Some column is masked.
    masks: bool,
    /// How, while no rows are on their way.
    plan: RefCell<Option<Box<Plan>>>,
}

/// What masks follow from: the publication, the program and the version of the catalog.
type Under = (u64, u64, u64);

fn under(standing: &Standing) -> Under {
    (standing.epoch, standing.program.id(), standing.catalog.version())
}

/// A worker's descriptions.
#[derive(Default)]
pub(crate) struct Descriptions {
    slots: Vec<Option<Rc<Description>>>,
    /// Collisions cost a look, no more: no seed is needed.
    hasher: FixedState,
}

impl Descriptions {
    /// What a RowDescription's body says, under these masks.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn of(&mut self, body: &[u8], standing: &Standing) -> Result<Rc<Description>, Malformed> {
        if body.len() > BODY_BYTES_MAX {
            return Description::new(body, standing).map(Rc::new);
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let under = under(standing);
        let number = usize::try_from(self.hasher.hash_one((under, body)) % SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.slots.get_mut(number) else {
            return Description::new(body, standing).map(Rc::new);
        };
        if let Some(known) = slot.as_ref().filter(|known| known.standing == under && *known.body == *body) {
            return Ok(Rc::clone(known));
        }
        let new = Rc::new(Description::new(body, standing)?);
        *slot = Some(Rc::clone(&new));
        Ok(new)
    }
}

impl Description {
    fn new(body: &[u8], standing: &Standing) -> Result<Description, Malformed> {
        let fields = backend::row_description(body)?;
        let shapes: Vec<ColumnShape> = fields.iter().map(shape).collect();
        let names: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(field.name)).collect();
        let columns: Vec<Column<'_>> = fields
            .iter()
            .zip(&names)
            .map(|(field, name)| Column {
                name,
                type_oid: field.type_oid,
                format: u8::from(field.format == 1),
                table_oid: field.table_oid,
                attribute: field.attribute,
            })
            .collect();
        let plan = Plan::new(&standing.masks, &shapes).map(Box::new);
        Ok(Description {
            standing: under(standing),
            body: body.into(),
            recorded: Columns::new(&columns),
            masks: plan.is_some(),
            plan: RefCell::new(plan),
            shapes,
        })
    }

    /// How rows are masked; `None`: they pass as they are. It is lent: [`Description::return_plan`] takes it back.
    pub(super) fn lend_plan(&self, standing: &Standing) -> Option<Box<Plan>> {
        if self.standing != under(standing) {
            return Plan::new(&standing.masks, &self.shapes).map(Box::new);
        }
        if !self.masks {
            return None;
        }
        let lent = self.plan.borrow_mut().take();
        lent.or_else(|| Plan::new(&standing.masks, &self.shapes).map(Box::new))
    }

    /// Takes a plan back whose counts were taken.
    pub(super) fn return_plan(&self, plan: Box<Plan>, standing: &Standing) {
        if self.standing == under(standing) {
            *self.plan.borrow_mut() = Some(plan);
        }
    }
}

fn shape(field: &backend::Field<'_>) -> ColumnShape {
    ColumnShape {
        table_oid: field.table_oid,
        attribute: field.attribute,
        type_oid: field.type_oid,
        format: u8::from(field.format == 1),
    }
}

/// Shows sizes only: names of columns belong into no log.
impl fmt::Debug for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description")
            .field("columns", &self.shapes.len())
            .field("masks", &self.masks)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockgate_facts::postgres::Catalog;
    use lockgate_mask::{ColumnMasks, Mask, Rule};
    use lockgate_policy_dsl::{Source, compile};

    use super::*;

    fn standing(epoch: u64, masked: Option<i16>) -> Standing {
        let text = String::from("policy p for group \"g\" on target \"t\" { allow * on * }");
        let (set, _) = compile(&[Source { name: String::from("p"), text }]).unwrap();
        let program = set.program("u", &[String::from("g")], "t").unwrap();
        let mut masks = ColumnMasks::default();
        if let Some(attribute) = masked {
            let rule = Rule { name: Arc::from("p/m"), place: Arc::from("s.t.c"), mask: Mask::Redact };
            masks.add(7, attribute, rule);
        }
        Standing { epoch, program, catalog: Arc::new(Catalog::empty()), masks }
    }

    /// One text column, of table 7.
    fn body(name: &str, attribute: u8) -> Vec<u8> {
        let column: &[u8] = &[0, 0, 0, 0, 7, 0, attribute, 0, 0, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0];
        [&[0, 1], name.as_bytes(), column].concat()
    }

    #[test]
    fn a_description_is_read_once_for_each_set_of_masks() {
        let mut known = Descriptions::default();
        let (masked, open) = (standing(1, Some(2)), standing(1, None));
        let first = known.of(&body("c", 2), &masked).unwrap();
        assert!(Rc::ptr_eq(&first, &known.of(&body("c", 2), &masked).unwrap()));
        assert!(first.lend_plan(&masked).is_some());
        assert!(known.of(&body("c", 2), &open).unwrap().lend_plan(&open).is_none());
        assert!(known.of(&body("c", 1), &masked).unwrap().lend_plan(&masked).is_none(), "another column");
        // A portal that was described before the masks changed.
        assert!(first.lend_plan(&open).is_none());
        let later = standing(2, Some(2));
        assert!(known.of(&body("c", 1), &open).unwrap().lend_plan(&later).is_none());
        assert!(known.of(&body("c", 2), &open).unwrap().lend_plan(&later).is_some());
    }

    #[test]
    fn a_plan_that_is_lent_is_made_for_others() {
        let masked = standing(1, Some(2));
        let description = Descriptions::default().of(&body("c", 2), &masked).unwrap();
        let (one, two) = (description.lend_plan(&masked).unwrap(), description.lend_plan(&masked).unwrap());
        description.return_plan(one, &masked);
        assert!(description.plan.borrow().is_some());
        description.return_plan(two, &standing(2, Some(1)));
        assert!(description.lend_plan(&masked).is_some());
        // The one that came back was lent; nobody returns this one.
        assert!(description.plan.borrow().is_none());
        assert!(description.lend_plan(&masked).is_some(), "rows are masked all the same");
    }

    #[test]
    fn many_are_bounded_and_none_is_taken_for_another() {
        let mut known = Descriptions::default();
        let masked = standing(1, Some(2));
        for round in 0..2 {
            for number in 0..3 * SLOTS {
                let attribute = u8::try_from(1 + number % 3).unwrap();
                let description = known.of(&body(&format!("c{number}"), attribute), &masked).unwrap();
                assert_eq!(description.lend_plan(&masked).is_some(), attribute == 2, "{round} {number}");
            }
        }
        assert_eq!(known.slots.len(), SLOTS);
        let long = "x".repeat(BODY_BYTES_MAX);
        let first = known.of(&body(&long, 2), &masked).unwrap();
        assert!(!Rc::ptr_eq(&first, &known.of(&body(&long, 2), &masked).unwrap()), "too long to keep");
        for broken in [&[][..], &[0], &[0, 1], &body("c", 2)[..20], &[&body("c", 2)[..], b"x"].concat()] {
            known.of(broken, &masked).unwrap_err();
        }
    }
}
