use super::*;

fn no_env(_: &str) -> Option<OsString> {
    None
}

fn user(text: &str) -> Result<ConfigFile> {
    ConfigFile::parse(text, "/c/config.toml".into(), &|n| (n == "HOME").then(|| "/home/ann".into()))
}

fn pair(k: &str, v: &str) -> (String, String) {
    (k.into(), v.into())
}

#[test]
fn each_layer_wins_over_the_one_below() {
    let conf = user("[log]\nsync-interval = \"2s\"\nsegment-size = \"8MiB\"\n[group]\nidle = \"3s\"\n[prune]\nmax-size = 5\n").unwrap();
    let central = ConfigFile::parse("[group]\nidle = \"9s\"\n[log]\nsegment-size = \"16MiB\"\n", "/s/config.toml".into(), &no_env).unwrap();
    let project = [pair("log.sync-interval", "4s"), pair("group.idle", "5s"), pair("prune.max-age", "never")];
    let env = |n: &str| (n == "IZE_GROUP_IDLE").then(|| OsString::from("6s"));
    let flags = [pair("prune.max-age", "1d")];
    let sources = Sources { user: &conf, central: &central, project: Some((&project, Path::new("p"))), env: &env, flags: &flags };
    let resolved = sources.resolve().unwrap();
    let layers: Vec<_> = resolved.values.iter().map(|v| (v.layer, v.text.as_str(), v.place.as_str())).collect();
    assert_eq!(
        layers,
        [
            (Layer::Central, "16MiB", "/s/config.toml"),
            (Layer::Default, "false", ""),
            (Layer::Project, "4s", "p"),
            (Layer::Default, "30s", ""),
            (Layer::Default, "200000", ""),
            (Layer::Environment, "6s", "IZE_GROUP_IDLE"),
            (Layer::Default, "1000", ""),
            (Layer::Default, "64MiB", ""),
            (Layer::Default, "30s", ""),
            (Layer::Default, "16", ""),
            (Layer::Flag, "1d", "command line"),
            (Layer::User, "5", "/c/config.toml"),
            (Layer::Default, "5%", ""),
            (Layer::Default, "10s", ""),
            (Layer::Default, "20%", ""),
            (Layer::Default, "30d", ""),
            (Layer::Default, "90d", ""),
            (Layer::Default, "forever", ""),
            (Layer::Default, "7d", ""),
            (Layer::Default, "", ""),
            (Layer::Default, class::RECENT, ""),
            (Layer::Default, "", ""),
            (Layer::Default, "recent", ""),
        ]
    );
    assert_eq!(
        resolved.settings,
        Settings {
            segment_size: 16 << 20,
            command_lines: false,
            cache_inodes: 200_000,
            sync_interval: Duration::from_secs(4),
            full_wait: Duration::from_secs(30),
            group_idle: Duration::from_secs(6),
            group_paths: 1000,
            group_bytes: 64 << 20,
            group_age: Duration::from_secs(30),
            group_parts: 16,
            prune_max_age: Some(Duration::from_secs(86_400)),
            prune_max_size: Some(5),
            prune_min_free: 5,
            prune_interval: Duration::from_secs(10),
            ..Settings::default()
        }
    );
    assert_eq!(only_env(&no_env).unwrap().settings, Settings::default());
}

fn only_env(env: Env<'_>) -> Result<Resolved> {
    let none = ConfigFile::default();
    Sources { user: &none, central: &none, project: None, env, flags: &[] }.resolve()
}

#[test]
fn the_defaults_as_written_are_those_of_the_code() {
    let all: Vec<_> = KEYS.iter().map(|k| pair(k.name, k.default)).collect();
    let mut odd = Settings {
        segment_size: 1,
        command_lines: true,
        cache_inodes: 1,
        sync_interval: Duration::ZERO,
        full_wait: Duration::ZERO,
        group_idle: Duration::ZERO,
        group_paths: 1,
        group_bytes: 1,
        group_age: Duration::ZERO,
        group_parts: 1,
        prune_max_age: None,
        prune_max_size: None,
        prune_min_free: 90,
        prune_interval: Duration::ZERO,
        max_store: MaxStore::Unlimited,
        ages: Ages { all: Duration::ZERO, hourly: Duration::ZERO, daily: Some(Duration::ZERO) },
        keep_recent: None,
        classes: ClassSettings { none: vec!["a".into()], recent: Vec::new(), keep: vec!["b".into()], cachedir_tag: class::Class::None },
    };
    odd.apply(&all, "test").unwrap();
    assert_eq!(odd, Settings::default());
}

#[test]
fn an_unknown_key_is_an_error_that_suggests_the_nearest() {
    for (text, near) in [
        ("[log]\nsegmentsize = \"4MiB\"", "`log.segment-size`"),
        ("sync-interval = \"4s\"", "`log.sync-interval`"),
        ("centraldir = \"/x\"", "`central-dir`"),
        ("[prune]\nmax-gae = \"1d\"", "`prune.max-age`"),
    ] {
        let e = user(text).unwrap_err();
        assert_eq!(e.class, Class::Usage);
        assert!(e.hint.as_deref().unwrap().contains(&format!("did you mean {near}")), "{text}: {e} {:?}", e.hint);
        assert!(e.message.contains("/c/config.toml"), "{e}");
    }
    let e = user("colour = \"red\"").unwrap_err();
    assert!(e.hint.unwrap().contains("known are"));
}

#[test]
fn a_value_that_does_not_read_names_file_key_and_value() {
    for text in [
        "[log]\nsegment-size = \"1KiB\"",
        "[log]\nsegment-size = \"1GiB\"",
        "[log]\nsync-interval = \"0s\"",
        "[group]\nidle = \"2\"",
        "[group]\npaths = 0",
        "[group]\nbytes = \"1KiB\"",
        "[group]\nparts = 65",
        "[prune]\nmax-age = \"1mo\"",
        "[prune]\nmax-size = true",
        "[retention]\nmax-store = \"0%\"",
        "[retention]\nkeep-daily = \"never\"",
        "[class]\nnone = \"[z-a]\"",
        "[class]\ncachedir-tag = \"all\"",
        "central-dir = \"relative\"",
        "central-dir = 3",
        "not toml",
    ] {
        let e = user(text).unwrap_err();
        assert_eq!(e.class, Class::Usage, "{text}");
        assert!(e.message.starts_with("/c/config.toml"), "{text}: {e}");
    }
    let e = only_env(&|n| (n == "IZE_PRUNE_MAX_AGE").then(|| "x".into()));
    assert!(e.unwrap_err().message.starts_with("IZE_PRUNE_MAX_AGE"));
}

#[test]
fn the_central_directory_comes_from_flag_file_and_xdg_in_this_order() {
    let conf = user("central-dir = \"~/ize\"").unwrap();
    let env = |n: &str| match n {
        "HOME" => Some(OsString::from("/home/ann")),
        "XDG_DATA_HOME" => Some(OsString::from("relative is ignored")),
        _ => None,
    };
    assert_eq!(central(Some(Path::new("/flag")), &conf, &env).unwrap().dir(), Path::new("/flag"));
    assert_eq!(central(None, &conf, &env).unwrap().dir(), Path::new("/home/ann/ize"));
    assert_eq!(central(None, &ConfigFile::default(), &env).unwrap().dir(), Path::new("/home/ann/.local/share/ize"));
    assert_eq!(central(None, &ConfigFile::default(), &no_env).unwrap_err().class, Class::Usage);
}

#[test]
fn settings_survive_being_written_and_read() {
    let all: Vec<_> = KEYS.iter().map(|k| pair(k.name, "1s")).collect();
    let mut back = flatten(&unflatten(&all)).unwrap();
    back.sort();
    let mut all = all;
    all.sort();
    assert_eq!(back, all);
}
