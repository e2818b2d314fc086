"""Evaluation of detections: COCO metrics, saved evaluations, reports and visualizations."""

from .coco import FastCOCOEvaluator

__all__ = ["FastCOCOEvaluator"]
