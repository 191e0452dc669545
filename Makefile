# SPDX-License-Identifier: Apache-2.0
# The daily commands. `make run` and `make test` need nothing on a Debian 12 machine but root, git and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
LOCK := requirements.lock
EDITABLE := build/editable
PIP := $(BIN)/pip --quiet --quiet --disable-pip-version-check --no-input
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_ROOT_USER_ACTION := ignore

# make run CONFIG=/etc/portcullis/portcullis.toml ARGS=...
CONFIG ?=
ARGS ?=
# make test TESTS=tests/rules PYTEST_ARGS=-x
TESTS ?= tests
PYTEST_ARGS ?= -ra
FUZZ_SECONDS ?= 30
VM_TESTS ?=

DESTDIR ?=
PREFIX ?= /opt/portcullis
SYSCONFDIR ?= /etc
UNITDIR ?= $(SYSCONFDIR)/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
TMPFILESDIR ?= /usr/lib/tmpfiles.d
BINDIR ?= /usr/local/bin

RUN_PACKAGES := python3-venv python3-dev gcc libc6-dev pkg-config libnetfilter-queue-dev libnfnetlink-dev \
	nftables iptables ipset conntrack iproute2
TEST_PACKAGES := curl nginx-light wrk iperf3 dnsmasq-base netcat-openbsd openssl vsftpd iputils-ping tcpdump procps \
	clang-14 libclang-rt-14-dev podman crun netavark docker.io busybox-static
# Of test-systemd and test-vm alone: on this machine, and in the Debian system that they boot.
BOOT_PACKAGES := mmdebstrap systemd-container
VM_PACKAGES := qemu-system-x86 e2fsprogs
TREE_PACKAGES := $(RUN_PACKAGES) linux-image-cloud-amd64 systemd systemd-sysv dbus udev kmod make ca-certificates \
	curl nginx-light wrk iperf3 dnsmasq-base netcat-openbsd openssl vsftpd iputils-ping tcpdump procps busybox-static

C_SOURCES := $(shell find fastpath \( -name '*.c' -o -name '*.h' -o -name build_cffi.py \) 2>/dev/null) \
	$(shell find . -path ./build -prune -o -path ./$(VENV) -prune -o -name 'meson*.build' -print -o -name meson.options -print)
INSTALLED := Makefile $(LOCK) pyproject.toml $(C_SOURCES) \
	$(shell find fastpath rules threatfeeds appliance systemd .ci/debian-tree .ci/retry -type f ! -name '*.pyc' ! -name '*.so' 2>/dev/null)

# What pip says may name package hosts; only its own words are of use.
hide_hosts = 2>&1 | sed -E 's\#(https?|file)://[^ ]*\#...\#g'

.PHONY: help run test test-c test-san test-py test-systemd test-vm demo bench profile lint fuzz install clean
help:
	@echo "run      install what is missing, build, and start the appliance on this node (mode observe)"
	@echo "test     every test, the ones in network namespaces included"
	@echo "test-systemd, test-vm   what needs a booted Debian: the units in a container, the lab tests on its kernel"
	@echo "demo     three namespaces, the real service, real clients: one line for each step"
	@echo "bench    throughput and rates against the kernel alone and two other NFQUEUE programs"
	@echo "profile  where the time goes: perf(1) while packets of four kinds run"
	@echo "lint     ruff, mypy --strict, and the C core under clang's warnings"
	@echo "fuzz     each fuzz target for FUZZ_SECONDS ($(FUZZ_SECONDS))"
	@echo "install  PREFIX=$(PREFIX), configuration in $(SYSCONFDIR)/portcullis, unit in $(UNITDIR); honours DESTDIR"
	@echo "clean    remove what was built"

# ---- from nothing to a working tree: one stamp for each step, so a second run starts at once
build/packages-run: Makefile .ci/debian-packages .ci/retry
	@.ci/debian-packages $(RUN_PACKAGES)
	@mkdir -p build && touch $@

build/packages-test: build/packages-run
	@.ci/debian-packages $(TEST_PACKAGES)
	@touch $@

build/python: $(LOCK) build/packages-run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@.ci/retry $(PIP) install -r $(LOCK) $(hide_hosts)
	@touch $@

build/core: build/python pyproject.toml $(C_SOURCES)
	@echo "building the C core"
	@$(PIP) install --no-build-isolation --no-deps --config-settings=build-dir=$(EDITABLE) --editable . $(hide_hosts)
	@cp -f $$(find $(EDITABLE) -name '_fastpath*.so') fastpath/
	@touch $@

# What make starts reads the packages from the tree, with the extension copied into it: an editable install asks ninja at
# every import whether something is to be built, which costs time and cannot work without root.
run demo bench profile test-py test-systemd test-vm: export PYTHONPATH := $(CURDIR)
run demo bench profile test-py test-systemd test-vm: export MESONPY_EDITABLE_SKIP := $(CURDIR)/$(EDITABLE)

run: build/core
	@exec $(BIN)/portcullis run $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

demo: build/core build/packages-test
	@$(BIN)/python -m appliance.lab.demo $(ARGS)

bench: build/core build/packages-test build/meson
	@$(BIN)/meson compile -C build/meson
	@$(BIN)/python -m pytest -q -p no:cacheprovider --benchmark-columns=median,iqr,rounds --benchmark-disable-gc bench $(ARGS)

profile: build/core build/packages-test build/meson
	@.ci/debian-packages linux-perf
	@$(BIN)/meson compile -C build/meson
	@$(BIN)/python -m bench.profile

# ---- tests
build/meson: build/python meson.build
	@rm -rf $@ && $(BIN)/meson setup $@ --buildtype release -Dpython=false >build/meson-setup.log || { cat build/meson-setup.log; exit 1; }

build/meson-asan: build/python meson.build build/packages-test
	@rm -rf $@ && $(BIN)/meson setup $@ --buildtype debugoptimized -Dpython=false -Db_sanitize=address,undefined -Db_lundef=false \
		>build/meson-setup.log || { cat build/meson-setup.log; exit 1; }

build/meson-tsan: build/python meson.build build/packages-test
	@rm -rf $@ && $(BIN)/meson setup $@ --buildtype debugoptimized -Dpython=false -Db_sanitize=thread -Db_lundef=false \
		>build/meson-setup.log || { cat build/meson-setup.log; exit 1; }

build/meson-fuzz: build/python meson.build build/packages-test
	@rm -rf $@ && CC=clang-14 $(BIN)/meson setup $@ --buildtype debugoptimized -Dpython=false -Dtests=false -Dfuzz=true -Db_lundef=false -Db_sanitize=address,undefined \
		>build/meson-setup.log || { cat build/meson-setup.log; exit 1; }

test: test-c test-san test-py

test-c: build/core build/packages-test build/meson
	@$(BIN)/meson test -C build/meson --print-errorlogs

test-san: build/meson-asan build/meson-tsan
	@$(BIN)/meson test -C build/meson-asan --print-errorlogs
	@$(BIN)/meson test -C build/meson-tsan --print-errorlogs

test-py: build/core build/packages-test build/meson
	@$(BIN)/meson compile -C build/meson >build/meson-compile.log || { cat build/meson-compile.log; exit 1; }
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

# ---- a Debian system that is booted: in a container, in a virtual machine
DEBIAN := build/debian

# Its name follows from the list of packages: another list, another system.
DEBIAN_BASE := $(DEBIAN)/base-$(shell echo $(TREE_PACKAGES) | md5sum | cut -c1-12)

# Where these packages cannot be had, the suites skip and say so.
build/packages-boot: build/packages-run
	@.ci/debian-packages $(BOOT_PACKAGES) || true
	@touch $@

build/packages-vm: build/packages-boot
	@.ci/debian-packages $(VM_PACKAGES) || true
	@touch $@

build/wheels: $(LOCK) | build/python
	@echo "collecting Python packages"
	@rm -rf build/wheelhouse && .ci/retry $(PIP) wheel --requirement $(LOCK) --wheel-dir build/wheelhouse $(hide_hosts)
	@touch $@

$(DEBIAN_BASE).made: | build/packages-boot
	@rm -rf $(DEBIAN)/base-* && mkdir -p $(DEBIAN)
	@.ci/debian-tree base $(DEBIAN_BASE) $(TREE_PACKAGES)
	@touch $@

$(DEBIAN)/tree.made: $(DEBIAN_BASE).made build/wheels $(INSTALLED)
	@.ci/debian-tree install $(DEBIAN_BASE) $(DEBIAN)/tree build/wheelhouse
	@touch $@

debian_tree = if command -v mmdebstrap >/dev/null; then $(MAKE) --no-print-directory $(DEBIAN)/tree.made; \
	else echo "no Debian system is made: mmdebstrap is not installed"; fi

test-systemd: build/core build/packages-boot
	@$(debian_tree)
	@PORTCULLIS_DEBIAN_TREE=$(CURDIR)/$(DEBIAN)/tree $(BIN)/python -m pytest $(PYTEST_ARGS) tests/systemd_container

# make test-vm VM_TESTS=tests/lab/test_chains.py
test-vm: build/core build/packages-vm
	@$(debian_tree)
	@[ ! -d $(DEBIAN)/tree ] || .ci/debian-tree refresh $(DEBIAN)/tree
	@$(BIN)/python -m tests.vm.run $(DEBIAN)/tree $(VM_TESTS)

# Findings stop the run; the corpus under tests/fuzz is the seed and is not written to.
fuzz: build/meson-fuzz
	@$(BIN)/meson compile -C build/meson-fuzz
	@for target in $$(find build/meson-fuzz -type f -perm -u+x -name 'fuzz_*'); do \
		name=$$(basename $$target); mkdir -p build/fuzz/$$name; \
		echo "$$name: $(FUZZ_SECONDS) s"; \
		seeds=tests/fuzz/corpus/$${name#fuzz_}; [ -d $$seeds ] || seeds=; \
		$$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 build/fuzz/$$name $$seeds >build/fuzz/$$name.log 2>&1 \
			|| { tail -n 40 build/fuzz/$$name.log; exit 1; }; \
		grep -E 'number_of_executed_units|peak_rss' build/fuzz/$$name.log; \
	done

build/meson-clang: build/python meson.build build/packages-test
	@rm -rf $@ && CC=clang-14 $(BIN)/meson setup $@ -Dpython=false -Dwerror=true >build/meson-setup.log || { cat build/meson-setup.log; exit 1; }

lint: build/core build/meson-clang
	@$(BIN)/ruff check .
	@$(BIN)/mypy --strict fastpath rules threatfeeds appliance bench
	@$(BIN)/meson compile -C build/meson-clang

# ---- the usual places
INSTALL_PIP = $(DESTDIR)$(PREFIX)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install

install: build/core
	rm -rf build/wheel && $(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel . $(hide_hosts)
	install -d $(DESTDIR)$(PREFIX)
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)
	.ci/retry $(INSTALL_PIP) -c $(LOCK) build/wheel/*.whl $(hide_hosts)
	# The same version again may be other code.
	$(INSTALL_PIP) --force-reinstall --no-deps build/wheel/*.whl $(hide_hosts)
	# A venv knows its own place: it is made under DESTDIR and will live under PREFIX.
	[ -z "$(DESTDIR)" ] || grep -rlI --exclude-dir=site-packages -F "$(DESTDIR)$(PREFIX)" $(DESTDIR)$(PREFIX) | xargs -r sed -i 's#$(DESTDIR)$(PREFIX)#$(PREFIX)#g'
	install -d $(DESTDIR)$(BINDIR) && ln -sfn $(PREFIX)/bin/portcullis $(DESTDIR)$(BINDIR)/portcullis
	install -d $(DESTDIR)$(SYSCONFDIR)/portcullis/policy.d $(DESTDIR)$(SYSCONFDIR)/portcullis/feeds.d $(DESTDIR)$(SYSCONFDIR)/portcullis/signatures.d
	# What the administrator wrote stays.
	[ -e $(DESTDIR)$(SYSCONFDIR)/portcullis/portcullis.toml ] || install -m 0644 systemd/portcullis.toml $(DESTDIR)$(SYSCONFDIR)/portcullis/portcullis.toml
	install -d $(DESTDIR)$(PREFIX)/share/doc/portcullis && cp -r systemd/examples $(DESTDIR)$(PREFIX)/share/doc/portcullis/
	install -D -m 0644 systemd/portcullis.sysusers $(DESTDIR)$(SYSUSERSDIR)/portcullis.conf
	install -D -m 0644 systemd/portcullis.tmpfiles $(DESTDIR)$(TMPFILESDIR)/portcullis.conf
	install -d $(DESTDIR)$(UNITDIR) && for unit in portcullis.service portcullis-feeds.service portcullis-feeds.timer portcullis-containers.service; do \
		sed 's#/opt/portcullis/#$(PREFIX)/#; s#/etc/portcullis/#$(SYSCONFDIR)/portcullis/#' systemd/$$unit >$(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	[ -n "$(DESTDIR)" ] || { systemd-sysusers $(SYSUSERSDIR)/portcullis.conf; systemd-tmpfiles --create $(TMPFILESDIR)/portcullis.conf; \
		systemctl daemon-reload 2>/dev/null || true; echo "start it with: systemctl enable --now portcullis portcullis-feeds.timer"; }

clean:
	rm -rf build builddir dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 -r rm -rf
