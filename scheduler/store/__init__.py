"""SQL: the only truth about workflows, runs and schedules. The one package here that imports SQLAlchemy.

tables (the schema) · commits (many small transactions as few) · run_rows, queue_rows, workflow_rows, schedule_rows,
delivery_rows, bill_rows (rows ⇄ dataclasses) · database (the store as the use cases see it).
"""
