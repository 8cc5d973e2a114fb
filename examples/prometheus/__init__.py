"""Prometheus and Grafana: a fleet to scrape, rules and alerts, and a dashboard for what operators ask."""
