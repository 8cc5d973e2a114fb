"""The Django application: ``INSTALLED_APPS += ["pool_telemetry.django"]``, and the setting ``POOL_TELEMETRY = {…}``.

Needs the extra ``django``; nothing else in the package imports this.
"""
