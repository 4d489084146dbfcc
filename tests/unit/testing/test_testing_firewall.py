# SPDX-License-Identifier: Apache-2.0
"""Which of the host's iptables rules belong to a network, as bridge and portmap of CNI plugins 1.1.1 write them."""

from __future__ import annotations

from acri.testing.firewall import _chains, _mine

ID = "18878b83c9ae2401"
OWN = f'-m comment --comment "name: \\"acri-up-a13a8d5a\\" id: \\"{ID}\\""'
OTHER = f'-m comment --comment "name: \\"acri-up-a13a8d5ab\\" id: \\"{ID}\\""'
SAVED = [
    "*nat",
    ":PREROUTING ACCEPT [0:0]",
    ":CNI-9eb31b3f180d69d5c695b83e - [0:0]",
    ":CNI-1111111111111111c695b83e - [0:0]",
    ":CNI-DN-9eb31b3f180d69d5c695b - [0:0]",
    ":CNI-HOSTPORT-DNAT - [0:0]",
    f"-A POSTROUTING -s 10.181.90.2/32 {OWN} -j CNI-9eb31b3f180d69d5c695b83e",
    f"-A POSTROUTING -s 10.181.91.2/32 {OTHER} -j CNI-1111111111111111c695b83e",
    f"-A CNI-9eb31b3f180d69d5c695b83e -d 10.181.90.0/24 {OWN} -j ACCEPT",
    f'-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"acri-up-a13a8d5a\\" id: \\"{ID}\\""'
    " -m multiport --dports 8080 -j CNI-DN-9eb31b3f180d69d5c695b",
    "-A CNI-DN-9eb31b3f180d69d5c695b -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.181.90.2:80",
    "COMMIT",
]


def test_only_the_networks_own_rules() -> None:
    mine = _mine(SAVED, "acri-up-a13a8d5a")
    assert len(mine) == 3
    assert not any("a13a8d5ab" in line for line in mine)
    assert _mine(SAVED, "acri-up-00000000") == []


def test_only_chains_of_its_pods() -> None:
    mine = _mine(SAVED, "acri-up-a13a8d5a")
    assert _chains(SAVED, mine) == ["CNI-9eb31b3f180d69d5c695b83e", "CNI-DN-9eb31b3f180d69d5c695b"]
