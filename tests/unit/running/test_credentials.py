"""The one maker of certificates and keys; tests/unit/image has what becomes of them in TLS."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509

from potara_flwr.command import main as command
from potara_flwr.core.errors import SettingsError
from potara_flwr.running.credentials import make_credentials, read_names


def test_the_server_is_known_by_its_names_for_its_days(tmp_path):
    names = "DNS:superlink.example.org, DNS:localhost,IP:127.0.0.1,IP:::1"
    made = make_credentials(tmp_path, ["clinic-a"], names, 30)
    assert made == [f"superlink: certificate for {names}, 30 days", "clinic-a: key"]
    server = x509.load_pem_x509_certificate((tmp_path / "superlink/server.crt").read_bytes())
    known = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert known.get_values_for_type(x509.DNSName) == ["superlink.example.org", "localhost"]
    assert known.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"),
    ]  # fmt: skip
    good_for = server.not_valid_after_utc - server.not_valid_before_utc
    assert (good_for.days, good_for.seconds) == (30, 5 * 60)
    kind, _, name = (tmp_path / "client/clinic-a.pub").read_text().split(" ")
    assert (kind, name) == ("ecdsa-sha2-nistp384", "clinic-a\n")
    assert make_credentials(tmp_path, ["clinic-a"], names, 30) == []


@pytest.mark.parametrize(
    "names", ["", "localhost", "DNS:", "DNS:,", "DNS:a b", "DNS:-a", "IP:localhost", "IP:127.1"]
)
def test_names_that_no_server_has_are_refused(names):
    with pytest.raises(SettingsError, match="is no name of a server: give DNS:name or IP:address"):
        read_names(names)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["client"], "error: a node cannot be called 'client': its folder will have this name"),
        (["../a"], "error: a node cannot be called '../a': its folder will have this name"),
        (["--days", "0"], "error: certificates are good for 1 to 36500 days, not for 0"),
        (["--names", "DNS:a;b"], "error: 'DNS:a;b' is no name of a server: give DNS:name or "
         "IP:address, with commas between"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(words, line, tmp_path, capsys):
    assert command.main(["credentials", str(tmp_path / "keys"), *words]) == 1
    assert capsys.readouterr().err == line + "\n"
    assert not (tmp_path / "keys").exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path, capsys):
    (tmp_path / "keys").write_text("a file")
    assert command.main(["credentials", str(tmp_path / "keys")]) == 1
    assert "cannot be written (Not a directory)" in capsys.readouterr().err
