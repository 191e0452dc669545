# SPDX-License-Identifier: Apache-2.0
"""Configuration of the appliance: one TOML file, every default in one place (model)."""

from appliance.config.load import DEFAULT_PATH, ConfigError, load_config, parse_config
from appliance.config.model import Action, Config, Failures, Mode

__all__ = ["DEFAULT_PATH", "Action", "Config", "ConfigError", "Failures", "Mode", "load_config", "parse_config"]
