//! Certificates made by openssl, good ones and bad ones, in a host's directory.

use std::path::Path;

use super::Host;

/// Shell functions on openssl's commands, and dates around now.
const FUNCTIONS: &str = r#"
set -e
exec 2>openssl.log
at() { date -u -d "$1" +%Y%m%d%H%M%SZ; }
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1; chmod 600 $1; }
# ca NAME
ca() {
    key $1-key.pem
    openssl req -x509 -new -key $1-key.pem -out $1.pem -days 30 -subj "/CN=$1 of the tests" \
        -addext keyUsage=critical,keyCertSign
}
# issue NAME CA FROM UNTIL [EXTENSION...]
issue() {
    name=$1 ca=$2 from=$(at "$3") until=$(at "$4")
    shift 4
    printf '%s\n' '[x]' 'basicConstraints=critical,CA:FALSE' "$@" >$name.cnf
    printf '%s\n' '[ca]' 'default_ca=d' '[d]' 'database=index' 'new_certs_dir=.' 'rand_serial=yes' \
        'default_md=sha256' 'policy=p' 'unique_subject=no' '[p]' 'commonName=optional' >ca.cnf
    : >index
    ${newkey:-key} $name-key.pem
    openssl req -new -key $name-key.pem -subj "/CN=${CN:-$name}" -out request.pem
    openssl ca -batch -notext -config ca.cnf -in request.pem -cert $ca.pem -keyfile $ca-key.pem \
        -startdate $from -enddate $until -extfile $name.cnf -extensions x -out $name.pem
}
# weakly issue ...: the same with a key of RSA that is too short.
weakly() { newkey=weakkey; "$@"; newkey=; }
weakkey() {
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out $1
    chmod 600 $1
}
# revoke CA NAME...: makes CA-crl.pem, in which these are
revoke() {
    ca=$1
    : >index
    shift
    for name; do openssl ca -config ca.cnf -keyfile $ca-key.pem -cert $ca.pem -revoke $name.pem; done
    echo 01 >crlnumber
    sed '/^default_ca/!s/^database=index$/&\ncrlnumber=crlnumber/' ca.cnf >crl.cnf
    openssl ca -config crl.cnf -keyfile $ca-key.pem -cert $ca.pem -gencrl -crldays 30 -out $ca-crl.pem
}
both=extendedKeyUsage=serverAuth,clientAuth
here() { echo "subjectAltName=IP:127.0.0.1,DNS:localhost,URI:farpipe://test/client/$1"; }
"#;

impl Host {
    /// Runs a script that makes certificates.
    #[track_caller]
    pub(crate) fn certificates(&self, script: &str) {
        let made = self.shell(&format!("{FUNCTIONS}\n{script}")).run();
        assert!(
            made.status.success(),
            "openssl is needed and failed:\n{}",
            String::from_utf8_lossy(&self.content("openssl.log"))
        );
    }

    /// An authority `ca`, and `server` and `client` issued by it.
    pub(crate) fn usual_certificates(&self) {
        self.certificates(
            r#"
            ca ca
            issue server ca '1 hour ago' '30 days' $both "$(here server)"
            issue client ca '1 hour ago' '30 days' $both "$(here client)"
            "#,
        );
    }
}

/// The flags that show `name`'s certificate and believe the authority `ca`.
pub(crate) fn shows(name: &str) -> [String; 6] {
    let flags = ["--cert", "", "--key", "", "--ca", "ca.pem"];
    let mut flags = flags.map(str::to_owned);
    flags[1] = format!("{name}.pem");
    flags[3] = format!("{name}-key.pem");
    flags
}

/// Puts a copy of `from` in the place of `to`, at once.
pub(crate) fn replace(host: &Host, from: &str, to: &str) {
    let new = host.path("replacing");
    let _ = std::fs::remove_file(&new);
    std::fs::copy(host.path(from), &new).expect("a copy");
    std::fs::rename(&new, Path::new(&host.path(to))).expect("in its place");
}
