//! One way to write a feature's configuration: fields, defaults and their documentation in one place, so that
//! `vos config default` cannot say something else than the code.

/// A key of a configuration section, for `vos config default` and for errors that name the nearest key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// Its documentation: one string for each line, with unit and limits.
    pub doc: &'static [&'static str],
}

/// Defines a configuration section: a struct that refuses unknown keys, fills missing ones with their defaults, and
/// lists its documented keys as `KEYS`.
#[macro_export]
macro_rules! config_section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident: $type:ty = $default:expr ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $name {
            /// Every key with its documentation, in the order of the file.
            pub const KEYS: &'static [$crate::primitives::Key] = &[
                $( $crate::primitives::Key { name: stringify!($field), doc: &[$($doc),+] }, )+
            ];
        }
    };
}
