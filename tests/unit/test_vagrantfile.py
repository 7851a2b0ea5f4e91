"""The Vagrantfile, read by Vagrant itself: how many machines, with which addresses and sizes, and
what runs on them. The providers are told to Vagrant by a plugin that only prints what they get."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Vagrant reads this one first. `vagrant up` of a machine prints a line of JSON.
PLUGIN = """
require "json"
require "ostruct"

class Asked < Vagrant.plugin("2", :config)
  def initialize; @said = {}; end
  attr_reader :said
  def merge(other); made = Asked.new; made.said.merge!(@said, other.said); made; end
  def method_missing(name, *words); @said[name.to_s.delete_suffix("=")] = words.first; end
  def respond_to_missing?(*) = true
  def finalize!; end
end

class Printing
  def initialize(app, env); end
  def call(env)
    machine = env[:machine]
    vm = machine.config.vm
    puts "machine " + JSON.generate(
      name: machine.name, box: vm.box, hostname: vm.hostname, asked: machine.provider_config.said,
      networks: vm.networks.map { |kind, words| [kind, words[:ip]] },
      files: vm.provisioners.select { |one| one.type == :file }.map { |one| one.config.source },
      shells: vm.provisioners.select { |one| one.type == :shell }.map { |one| one.config.inline },
    )
  end
end

class Provider < Vagrant.plugin("2", :provider)
  def initialize(machine); end
  def action(name) = Vagrant::Action::Builder.new.tap { |made| made.use Printing if name == :up }
  def state = Vagrant::MachineState.new(:not_created, "none", "none")
  def self.usable?(*) = true
end

class Providers < Vagrant.plugin("2")
  name "providers that print"
  %i[virtualbox libvirt qemu].each do |one|
    provider(one, priority: 99, box_optional: true) { Provider }
    config(one, :provider) { Asked }
  end
end
"""

pytestmark = pytest.mark.skipif(not shutil.which("vagrant"), reason="no vagrant")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Vagrant keeps its own things."""
    path = tmp_path_factory.mktemp("vagrant")
    (path / "Vagrantfile").write_text(PLUGIN)
    return path


def vagrant(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {"VAGRANT_HOME": str(home), "VAGRANT_DOTFILE_PATH": str(home / "machines")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NETLAB_")}
    return subprocess.run(
        ["vagrant", *words],
        cwd=ROOT,
        env={**clean, **own, "VAGRANT_CHECKPOINT_DISABLE": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@functools.cache
def machines(home: Path, provider: str = "virtualbox", *said: str) -> list[dict[str, Any]]:
    """Return what `vagrant up` would make of each machine, in the order in which it does; *said*:
    NAME=VALUE of the environment."""
    env = dict(one.split("=", 1) for one in said)
    done = vagrant(home, "up", f"--provider={provider}", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.removeprefix("machine ") for line in done.stdout.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_vagrant_finds_nothing_wrong_with_it(home: Path) -> None:
    done = vagrant(home, "validate", "--ignore-provider")
    assert done.returncode == 0, done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.parametrize("count", [1, 3, 5])
def test_there_are_as_many_machines_as_are_asked_for(home: Path, count: int) -> None:
    found = machines(home, "virtualbox", f"NETLAB_NODES={count}")
    assert [one["name"] for one in found] == [f"node{n}" for n in range(1, count + 1)]
    for number, one in enumerate(found, start=1):
        assert one["hostname"] == one["name"]
        assert ["private_network", f"192.168.56.{10 + number}"] in one["networks"]
        assert f"vm-provision {number} {count} iptables" in one["shells"][-1]
        assert one["box"] == "bento/debian-12"
        assert {"memory": 1024, "cpus": 2}.items() <= one["asked"].items()


def test_without_a_word_there_are_three(home: Path) -> None:
    found = machines(home, "qemu")
    assert len(found) == 3
    assert {one["box"] for one in found} == {"cloud-image/debian-12"}
    wire = {"net_mode": "socket", "socket_opts": "mcast=230.0.0.1:15656,localaddr=127.0.0.1"}
    assert {"memory": "1024M", "smp": "2", **wire}.items() <= found[0]["asked"].items()


def test_what_the_environment_says_is_what_they_get(home: Path) -> None:
    said = ("NETLAB_MEMORY=2048", "NETLAB_CPUS=4", "NETLAB_PROXY_MODE=ipvs", "NETLAB_BOX=mine")
    (one,) = machines(home, "libvirt", "NETLAB_NODES=1", *said)
    assert (one["box"], one["asked"]["memory"], one["asked"]["cpus"]) == ("mine", 2048, 4)
    assert "vm-provision 1 1 ipvs" in one["shells"][-1]


def test_all_that_the_script_copies_is_brought(home: Path) -> None:
    (one,) = machines(home, "virtualbox", "NETLAB_NODES=1")
    copied = (ROOT / "scripts/vm-provision").read_text().split("for part in ")[1].split(";")[0]
    brought = [source.removeprefix("./") for source in one["files"]]
    assert {*copied.split()} - {"wheels"} == {*brought} - {"wheels"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NETLAB_NODES", "0", "not a whole number from 1 to 80"),
        ("NETLAB_NODES", "3\n4", "not a whole number from 1 to 80"),
        ("NETLAB_MEMORY", "1G", "not a whole number from 512 to 65536"),
        ("NETLAB_PROXY_MODE", "ipv", "none of iptables, nftables, ipvs, userspace"),
    ],
)
def test_a_bad_value_is_one_error(home: Path, name: str, value: str, said: str) -> None:
    done = vagrant(home, "validate", "--ignore-provider", **{name: value})
    assert done.returncode == 2
    assert done.stderr == f"error: {name}={value}: {said}\n"
    assert "validated" not in done.stdout
