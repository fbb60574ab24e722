//! `--config FILE`: a verb's flags from YAML. Precedence: flag, environment, file, default.
//!
//! A key is the long name of a flag, with `_` or `-` between its words. At the top level it holds
//! for every verb that has such a flag; below a verb's name for that verb alone. The file's values
//! become the defaults of the command line's own definition, so a flag has its key, its check and
//! its precedence here without a line of code, and unknown ones cannot slip through.

mod rules;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::OsStr as ClapStr;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command};

pub(crate) use farpipe_yaml::ConfigError;
use farpipe_yaml::{Entry, Item, Place, Section, Value};

/// Keys of a `tls:` mapping and the flags they stand for.
const TLS: &[(&str, &str)] = &[
    ("cert_file", "cert"),
    ("key_file", "key"),
    ("ca_file", "ca"),
    ("crl_file", "crl"),
    ("client_auth_required", "client-auth-required"),
];

/// Keys people try for a secret, and where it may stand instead.
const SECRETS: &[(&str, &str)] = &[
    ("ticket", "FARPIPE_TICKET or ticket_file"),
    ("token", "FARPIPE_TOKEN or token_file"),
    ("secret", "a file or the environment"),
    ("password", "a file or the environment"),
];

/// Flags that would make no sense in a file.
const NEVER: &[&str] = &["help", "version", "config", "status-fd"];

/// Gives `command` the settings of `path` as its defaults, but for those that contradict what is
/// typed. Also how many settings there were.
///
/// # Errors
/// [`ConfigError`], which says where in the file, and what to write instead.
pub(crate) fn apply(
    command: Command,
    path: &Path,
    typed: &Typed,
) -> Result<(Command, usize), ConfigError> {
    let hint = "check the path given with --config or $FARPIPE_CONFIG";
    let root = farpipe_yaml::parse(path, farpipe_yaml::read(path, hint)?)?;
    let settings = Settings::sort(&command, root, typed)?;
    rules::private_files(settings.of(typed))?;
    let count = settings.count;
    Ok((settings.give_to(command, typed), count))
}

/// What the command line and the environment say, before the file is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// The file they name.
    pub(crate) file: Option<PathBuf>,
    /// Their verb; none where the file alone is looked at.
    verb: Option<String>,
    /// The arguments they give to it.
    given: Vec<String>,
}

impl Typed {
    /// Looks at a command line that may have other errors.
    pub(crate) fn of(command: &Command, args: &[OsString]) -> Self {
        let early = command.clone().ignore_errors(true);
        let Ok(matches) = early.try_get_matches_from(args) else {
            return Self::default();
        };
        let (mut path, mut verb) = (Vec::new(), &matches);
        while let Some((name, below)) = verb.subcommand() {
            path.push(name);
            verb = below;
        }
        let is_given = |id: &&clap::Id| {
            let source = verb.value_source(id.as_str());
            source.is_some_and(|source| source != ValueSource::DefaultValue)
        };
        let given = match path[..] {
            [] => Vec::new(),
            _ => verb
                .ids()
                .filter(is_given)
                .map(ToString::to_string)
                .collect(),
        };
        let file = matches.try_get_one::<PathBuf>("config");
        let file = file.ok().flatten().cloned();
        let verb = (!path.is_empty()).then(|| path.join("-"));
        Self { file, verb, given }
    }
}

/// One value for one flag, checked.
#[derive(Debug, Clone)]
struct Setting {
    flag: String,
    /// As the file calls it.
    written: String,
    values: Vec<String>,
    /// Flags that it cannot stand beside.
    conflicts: Vec<String>,
    place: Place,
}

impl Setting {
    /// A switch that is off contradicts nothing.
    fn contradicts(&self, flag: &str) -> bool {
        self.values != ["false"] && self.conflicts.iter().any(|other| other == flag)
    }
}

/// All settings, by verb.
#[derive(Debug, Default)]
struct Settings {
    by_verb: Vec<(Vec<String>, Vec<Setting>)>,
    /// As written: one that holds for all verbs counts once.
    count: usize,
}

impl Settings {
    fn sort(command: &Command, root: Section, typed: &Typed) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        rules::no_key_twice(&root.entries)?;
        let (sections, common): (Vec<_>, Vec<_>) = root
            .entries
            .into_iter()
            .partition(|entry| verb(command, &entry.key).is_some());
        let common = flatten(common)?;
        settings.count = common.len();
        for entry in &common {
            if !verbs(command).any(|verb| flag(verb.command, &entry.key).is_some()) {
                let known = verbs(command).flat_map(|verb| flags(verb.command));
                return Err(unknown(entry, known.chain(verb_names(command))));
            }
        }
        let mut by_verb: Vec<(Verb<'_>, Vec<Entry>)> =
            verbs(command).map(|verb| (verb, common.clone())).collect();
        for section in sections {
            let place = section.place.clone();
            let Value::Section(inner) = section.value else {
                return Err(place.error(
                    format!("'{}' is a verb; its settings go below it", section.key),
                    format!("{}:\n  resume_for: 10m", section.key),
                ));
            };
            let inner = flatten(inner.entries)?;
            settings.count += inner.len();
            let named = by_verb
                .iter_mut()
                .find(|(v, _)| same(&v.name(), &section.key));
            if let Some((verb, entries)) = named {
                for entry in &inner {
                    if flag(verb.command, &entry.key).is_none() {
                        return Err(unknown(entry, flags(verb.command)));
                    }
                }
                // What stands below the verb's own name wins.
                entries.retain(|e| !inner.iter().any(|i| same(&i.key, &e.key)));
                entries.extend(inner);
            }
        }
        for (verb, entries) in by_verb {
            let mut own = Vec::new();
            for entry in entries {
                if let Some(arg) = flag(verb.command, &entry.key) {
                    own.push(setting(verb.command, arg, &entry)?);
                }
            }
            for setting in &own {
                let other = own.iter().find(|other| {
                    other.contradicts(&setting.flag) && setting.contradicts(&other.flag)
                });
                if let Some(other) = other {
                    return Err(setting.place.error(
                        format!("'{}' cannot stand beside '{}'", setting.flag, other.flag),
                        "remove one of them",
                    ));
                }
            }
            let is_typed = typed.verb.as_ref() == Some(&verb.name());
            let given = if is_typed {
                typed.given.as_slice()
            } else {
                &[]
            };
            rules::no_half(verb.command, &own, given)?;
            settings.by_verb.push((verb.path, own));
        }
        Ok(settings)
    }

    /// What counts now: of the verb that is typed, what is not typed itself; without one, all.
    fn of(&self, typed: &Typed) -> impl Iterator<Item = &Setting> {
        let verbs = self.by_verb.iter();
        let is_meant = |path: &Vec<String>| match &typed.verb {
            Some(typed) => *typed == path.join("-"),
            None => true,
        };
        let verbs = verbs.filter(move |(path, _)| is_meant(path));
        let settings = verbs.flat_map(|(_, settings)| settings);
        settings.filter(|setting| !typed.given.contains(&setting.flag))
    }

    fn give_to(self, mut command: Command, typed: &Typed) -> Command {
        for (path, own) in self.by_verb {
            command = below(command, &path, |mut verb| {
                for setting in own {
                    // The command line beats the file, also by a flag that excludes this one.
                    if typed.given.iter().any(|flag| setting.contradicts(flag)) {
                        continue;
                    }
                    let Setting { flag, values, .. } = setting;
                    let values: Vec<_> = values.into_iter().map(ClapStr::from).collect();
                    // In place: `mut_arg` puts an argument behind the others, and those without a
                    // flag are known by their place.
                    verb = verb.mut_args(|arg| match *arg.get_id() == *flag {
                        true => arg.required(false).default_values(values.iter().cloned()),
                        false => arg,
                    });
                }
                verb
            });
        }
        command
    }
}

/// Changes the command that `path` leads to.
fn below(command: Command, path: &[String], change: impl FnOnce(Command) -> Command) -> Command {
    // Boxed: the type of a closure that calls itself has no end.
    fn step(
        command: Command,
        path: &[String],
        change: Box<dyn FnOnce(Command) -> Command + '_>,
    ) -> Command {
        match path {
            [] => change(command),
            [first, rest @ ..] => command.mut_subcommand(first, |sub| step(sub, rest, change)),
        }
    }
    step(command, path, Box::new(change))
}

/// A command that takes settings, and the words that lead to it: `bench link`.
#[derive(Clone)]
struct Verb<'a> {
    path: Vec<String>,
    command: &'a Command,
}

impl Verb<'_> {
    /// As its section is called: `bench-link`.
    fn name(&self) -> String {
        self.path.join("-")
    }
}

/// Verbs that take settings: all that have flags of their own.
fn verbs(command: &Command) -> impl Iterator<Item = Verb<'_>> {
    let takes_settings = |verb: &&Command| !["help", "config"].contains(&verb.get_name());
    let verbs = command.get_subcommands().filter(takes_settings);
    verbs.flat_map(move |verb| {
        let path = vec![verb.get_name().to_owned()];
        if !verb.has_subcommands() {
            let command = verb;
            return vec![Verb { path, command }];
        }
        let below = verb.get_subcommands().filter(takes_settings);
        let below = below.map(|command| Verb {
            path: vec![path[0].clone(), command.get_name().to_owned()],
            command,
        });
        below.collect()
    })
}

fn verb<'a>(command: &'a Command, key: &str) -> Option<Verb<'a>> {
    verbs(command).find(|verb| same(&verb.name(), key))
}

fn verb_names(command: &Command) -> impl Iterator<Item = String> {
    verbs(command).map(|verb| verb.name())
}

fn same(name: &str, key: &str) -> bool {
    name.replace('-', "_") == key.replace('-', "_")
}

/// The name of an argument in a file: its long flag, or its place's name.
fn name(arg: &Arg) -> String {
    arg.get_long()
        .map_or_else(|| arg.get_id().to_string(), str::to_owned)
        .replace('-', "_")
}

fn flag<'a>(verb: &'a Command, key: &str) -> Option<&'a Arg> {
    verb.get_arguments()
        .find(|arg| same(&name(arg), key) && !NEVER.contains(&name(arg).replace('_', "-").as_str()))
}

fn flags(verb: &Command) -> impl Iterator<Item = String> {
    verb.get_arguments()
        .map(name)
        .filter(|name| !NEVER.contains(&name.replace('_', "-").as_str()))
}

/// Replaces a `tls:` mapping by the flags it stands for, and refuses secrets.
fn flatten(entries: Vec<Entry>) -> Result<Vec<Entry>, ConfigError> {
    let mut flat = Vec::with_capacity(entries.len());
    for entry in entries {
        if let Some((_, instead)) = SECRETS.iter().find(|(key, _)| same(key, &entry.key)) {
            return Err(entry.place.error(
                format!("'{}': secrets do not belong into this file", entry.key),
                format!("use {instead}"),
            ));
        }
        match (entry.key.as_str(), entry.value) {
            ("tls", Value::Section(tls)) => {
                for inner in tls.entries {
                    let Some((_, flag)) = TLS.iter().find(|(key, _)| same(key, &inner.key)) else {
                        return Err(unknown(
                            &inner,
                            TLS.iter().map(|(key, _)| (*key).to_owned()),
                        ));
                    };
                    flat.push(Entry {
                        key: (*flag).to_owned(),
                        ..inner
                    });
                }
            }
            (_, value) => flat.push(Entry { value, ..entry }),
        }
    }
    rules::no_key_twice(&flat)?;
    Ok(flat)
}

fn unknown(entry: &Entry, known: impl Iterator<Item = String>) -> ConfigError {
    let mut known: Vec<String> = known.collect();
    known.sort();
    known.dedup();
    let near = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &entry.written), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3);
    let hint = match near {
        Some((_, name)) => format!("did you mean '{name}'?"),
        None => format!("known here: {}", known.join(", ")),
    };
    entry
        .place
        .error(format!("unknown key '{}'", entry.written), hint)
}

/// Checks an entry's value as the command line would.
fn setting(verb: &Command, arg: &Arg, entry: &Entry) -> Result<Setting, ConfigError> {
    let takes_many = matches!(arg.get_action(), ArgAction::Append);
    let values: Vec<(String, &Place)> = match &entry.value {
        Value::Text(text) => vec![(text.clone(), &entry.place)],
        Value::List(items) if takes_many => items
            .iter()
            .map(|item| plain(entry, item))
            .collect::<Result<_, _>>()?,
        Value::List(_) => {
            return Err(entry.place.error(
                format!("'{}' takes one value, not a list", entry.written),
                format!("{}: VALUE", entry.written),
            ));
        }
        Value::Section(_) => {
            return Err(entry.place.error(
                format!("'{}' takes a value, not settings below it", entry.written),
                format!("{}: VALUE", entry.written),
            ));
        }
    };
    for (value, place) in &values {
        rules::no_secret(&entry.written, value, place)?;
        check(arg, value).map_err(|why| {
            place.error(
                format!("'{}': {value:?} cannot be used: {}", entry.written, why.0),
                why.1,
            )
        })?;
    }
    Ok(Setting {
        flag: arg.get_id().to_string(),
        written: entry.written.clone(),
        values: values.into_iter().map(|(value, _)| value).collect(),
        conflicts: conflicts(verb, arg),
        place: entry.place.clone(),
    })
}

fn plain<'a>(entry: &Entry, item: &'a Item) -> Result<(String, &'a Place), ConfigError> {
    let Value::Text(text) = &item.value else {
        return Err(item.place.error(
            format!("'{}' is a list of plain values", entry.written),
            "write one value in each item",
        ));
    };
    Ok((text.clone(), &item.place))
}

/// The flags that exclude `arg`, whichever of the two says so.
fn conflicts(verb: &Command, arg: &Arg) -> Vec<String> {
    let excludes = |one: &Arg, other: &Arg| {
        let excluded = verb.get_arg_conflicts_with(one);
        excluded.iter().any(|arg| arg.get_id() == other.get_id())
    };
    let others = verb.get_arguments();
    let others = others.filter(|other| excludes(arg, other) || excludes(other, arg));
    others.map(|other| other.get_id().to_string()).collect()
}

/// What is wrong with a value, and what would be right.
fn check(arg: &Arg, value: &str) -> Result<(), (String, String)> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return match value {
            "true" | "false" => Ok(()),
            _ => Err((
                "it is a switch".to_owned(),
                "write true or false".to_owned(),
            )),
        };
    }
    // An argument of its own, so that what it conflicts with or requires does not matter here.
    let probe = Arg::new("value")
        .long("value")
        .allow_hyphen_values(true)
        .action(ArgAction::Set)
        .value_parser(arg.get_value_parser().clone());
    let parsed = Command::new("config")
        .no_binary_name(true)
        .arg(probe)
        .try_get_matches_from([format!("--value={value}")]);
    let Err(error) = parsed else { return Ok(()) };
    let possible: Vec<_> = arg
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if possible.is_empty() {
        let why = std::error::Error::source(&error).map_or_else(
            || "not a value of this flag".to_owned(),
            ToString::to_string,
        );
        return Err((why, "see --help of the verb".to_owned()));
    }
    Err((
        "not one of its values".to_owned(),
        format!("write one of: {}", possible.join(", ")),
    ))
}

#[cfg(test)]
mod tests;
