"""A certificate authority of a test's own: certificates that are good, expired or revoked, and lists of those revoked."""

import datetime
import pathlib

from . import machine

CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
new_certs_dir = {folder}
database = {folder}/index
serial = {folder}/serial
crlnumber = {folder}/crlnumber
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
unique_subject = no
copy_extensions = copy
policy = any
[any]
commonName = optional
organizationName = optional
[req]
distinguished_name = none
[none]
[leaf]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth,serverAuth
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
"""


class Authority:
    """Made with a folder of its own."""

    def __init__(self, folder, name):
        machine.need("openssl")
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.config = self.folder / "openssl.cnf"
        self.config.write_text(CONFIG.format(folder=self.folder))
        (self.folder / "index").touch()
        for counter in ("serial", "crlnumber"):
            (self.folder / counter).write_text("1000\n")
        self.pem, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        made = ["-x509", "-days", "30", "-subj", f"/CN={name}", "-extensions", "authority", "-config", self.config]
        self._openssl("req", *new_key(), *made, "-keyout", self.key, "-out", self.pem)

    def certificate(self, name, subject=None, alternatives=(), days=(-1, 30)):
        """(certificate, key) for `/CN=name`, or another subject; `alternatives` as openssl writes them (`DNS:a.example`)."""
        certificate, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        names = ["-addext", f"subjectAltName={','.join(alternatives)}"] if alternatives else []
        self._openssl("req", *new_key(), "-subj", subject or f"/CN={name}", *names, "-config", self.config, "-keyout", key, "-out", request)
        begin, end = (self._date(number) for number in days)
        signed = ["-batch", "-notext", "-extensions", "leaf", "-startdate", begin, "-enddate", end]
        self._openssl("ca", "-config", self.config, *signed, "-in", request, "-out", certificate)
        key.chmod(0o600)
        return certificate, key

    def revoked(self, *certificates):
        """A list of those revoked, with these among them."""
        for certificate in certificates:
            self._openssl("ca", "-config", self.config, "-revoke", certificate)
        crl = self.folder / "revoked.crl"
        self._openssl("ca", "-config", self.config, "-gencrl", "-out", crl)
        return crl

    def _date(self, days):
        return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).strftime("%y%m%d%H%M%SZ")

    def _openssl(self, *words):
        machine.run(["openssl", *words], what=f"openssl {words[0]}")


def new_key():
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
