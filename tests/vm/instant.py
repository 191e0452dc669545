# SPDX-License-Identifier: Apache-2.0
"""pytest plugin of the machines: a failure is shown when it happens. A machine that is stopped shows no summary."""

import pytest


class Instant:
    def __init__(self, config: pytest.Config) -> None:
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._terminal is not None:
            self._terminal.write_line("")
            self._terminal.write_line(f"{report.when} of {report.nodeid}:\n{report.longreprtext}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Instant(config))
