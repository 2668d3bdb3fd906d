"""CI templates: one pipeline rendered for four CI systems."""

from modelyard.ci_templates.service import CISystem, CITemplateGenerator

__all__ = ["CISystem", "CITemplateGenerator"]
