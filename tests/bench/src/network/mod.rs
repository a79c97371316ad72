//! Real browsers over bad lines: what their viewers see, and what was asked for, repaired and given up meanwhile.
//!
//! | file | does |
//! | --- | --- |
//! | `cells` | which lines, and what happens to them |
//! | `field` | a server or none, a publisher and a viewer, and the lines between them |
//! | `report` | medians, table, JSON |

pub mod cells;
pub mod field;
pub mod report;
