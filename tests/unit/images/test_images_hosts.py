# SPDX-License-Identifier: Apache-2.0
"""certs.d as containerd reads it (containerd-cri.md 5.5, easily-missed 36)."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from acri import errors
from acri.images import hosts


def _write(root: Path, name: str, text: str) -> Path:
    path = root / name / "hosts.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def _bases(domain: str, root: Path) -> list[str]:
    return [host.base for host in hosts.find(domain, str(root))]


@pytest.mark.parametrize(
    ("domain", "base", "fallback", "skip"),
    [
        ("docker.io", "https://registry-1.docker.io/v2", False, False),
        ("quay.io", "https://quay.io/v2", False, False),
        ("quay.io:8443", "https://quay.io:8443/v2", False, False),
        ("localhost:5000", "https://localhost:5000/v2", True, True),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/v2", True, True),
        ("[::1]:5000", "https://[::1]:5000/v2", True, True),
        ("localhost", "https://localhost/v2", False, True),
        ("localhost:80", "http://localhost:80/v2", False, False),
        ("localhost:443", "https://localhost:443/v2", False, True),
    ],
)
def test_without_a_file_the_registry_itself_is_asked(
    tmp_path: Path, domain: str, base: str, fallback: bool, skip: bool
) -> None:
    (host,) = hosts.find(domain, str(tmp_path))
    assert (host.base, host.http_fallback, host.tls.skip_verify, host.own) == (base, fallback, skip, True)


def test_the_most_special_directory_counts(tmp_path: Path) -> None:
    _write(tmp_path, "_default", 'server = "https://default"')
    assert _bases("r.io:5000", tmp_path) == ["https://default/v2"]
    _write(tmp_path, "r.io:5000", 'server = "https://colon"')
    assert _bases("r.io:5000", tmp_path) == ["https://colon/v2"]
    _write(tmp_path, "r.io_5000_", 'server = "https://underscore"')
    assert _bases("r.io:5000", tmp_path) == ["https://underscore/v2"]
    assert _bases("r.io", tmp_path) == ["https://default/v2"]


def test_several_roots_in_turn(tmp_path: Path) -> None:
    _write(tmp_path, "b/r.io", 'server = "https://b"')
    assert _bases("r.io", Path(f"{tmp_path}/a:{tmp_path}/b")) == ["https://b/v2"]


def test_mirrors_in_the_order_of_the_file_then_the_server(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "docker.io",
        """
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull", "resolve"]
          ca = "ca.pem"
          client = [["c.cert", "/k.key"], "both.pem"]
          skip_verify = true
          dial_timeout = "1m500ms"
          [host."https://z.example".header]
            x-one = "1"
            x-many = ["2", "3"]
        [host."http://a.example:8080/prefix"]
          capabilities = ["Pull"]
        [host."m.example/exact/v2"]
          override_path = true
        """,
    )
    z, a, m, server = hosts.find("docker.io", str(tmp_path))
    assert [z.base, a.base] == ["https://z.example/v2", "http://a.example:8080/prefix/v2"]
    assert [m.base, server.base] == ["https://m.example/exact/v2", "https://registry-1.docker.io/v2"]
    assert z.tls == hosts.Tls(True, (f"{path.parent}/ca.pem",), ((f"{path.parent}/c.cert", "/k.key"),
                                                                 (f"{path.parent}/both.pem", "")))  # fmt: skip
    assert z.headers == (("x-one", "1"), ("x-many", "2"), ("x-many", "3"))
    assert z.connect_timeout == 60.5
    assert a.capabilities == {"pull"}
    assert [h.proxied for h in (z, a, m, server)] == ["docker.io", "docker.io", "docker.io", ""]
    assert [h.own for h in (z, a, m, server)] == [False, False, False, True]
    assert z.source == f"{path}:3"


def test_root_keys_apply_to_the_registry_itself(tmp_path: Path) -> None:
    _write(tmp_path, "r.io", 'ca = "/x.pem"\ncapabilities = ["pull"]')
    (host,) = hosts.find("r.io", str(tmp_path))
    assert (host.base, host.tls.ca, host.capabilities, host.own) == ("https://r.io/v2", ("/x.pem",), {"pull"}, True)


def test_override_path(tmp_path: Path) -> None:
    _write(tmp_path, "r.io", '[host."https://m/a/b/"]\noverride_path = true\n[host."https://n/"]\noverride_path = true')
    assert _bases("r.io", tmp_path)[:2] == ["https://m/a/b", "https://n"]


def test_http_with_tls_settings_tries_https_first(tmp_path: Path) -> None:
    _write(tmp_path, "r.io", '[host."http://m:5000"]\nskip_verify = true\n[host."http://n"]\nskip_verify = true')
    m, n, _ = hosts.find("r.io", str(tmp_path))
    assert (m.base, m.http_fallback) == ("https://m:5000/v2", True)
    assert (n.base, n.http_fallback) == ("http://n/v2", False)


def test_dockers_layout(tmp_path: Path) -> None:
    directory = tmp_path / "r.io"
    directory.mkdir()
    for name in ("a.crt", "client.cert", "client.key"):
        (directory / name).write_text("")
    (host,) = hosts.find("r.io", str(tmp_path))
    assert host.tls == hosts.Tls(
        False, (str(directory / "a.crt"),), ((str(directory / "client.cert"), str(directory / "client.key")),)
    )
    (directory / "client.key").unlink()
    with pytest.raises(errors.FailedPrecondition, match=r"no client\.key"):
        hosts.find("r.io", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("server =", "not valid TOML"),
        ("server = 1", ":1: server: must be a URL"),
        ("\nhost = 1", ":2: host: must be tables"),
        ('[host."https://m"]\ncapabilities = ["fly"]', ":2: capabilities: unknown capability 'fly'"),
        ('[host."https://m"]\nskip_verify = "yes"', ":2: skip_verify: must be true or false"),
        ('[host."https://m"]\nca = 1', ":2: ca: must be"),
        ('[host."https://m"]\nclient = [["a"]]', ":2: client: must be"),
        ('[host."https://m"]\ndial_timeout = "soon"', ":2: dial_timeout"),
        ('[host."https://m:port"]', "is not a URL"),
        ('[host."https://user@m"]', "must be http"),
        ('[host."https://m"]\nheader = "x"', ":2: header: must be"),
    ],
)
def test_a_file_that_does_not_parse_is_an_error(tmp_path: Path, text: str, part: str) -> None:
    path = _write(tmp_path, "r.io", text)
    with pytest.raises(errors.FailedPrecondition) as caught:
        hosts.find("r.io", str(tmp_path))
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_an_unknown_key_is_a_warning(tmp_path: Path) -> None:
    _write(tmp_path, "r.io", 'server = "https://m"\n[host."https://n"]\nfuture = 1')
    with capture_logs() as logs:
        assert _bases("r.io", tmp_path) == ["https://n/v2", "https://m/v2"]
    assert [(entry["key"], entry["line"]) for entry in logs] == [("future", 3)]
