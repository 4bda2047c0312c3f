"""SQL: the only truth about workflows and runs. The one package here that imports SQLAlchemy.

tables (the schema) · commits (many small transactions as few) · run_rows, workflow_rows, delivery_rows (rows ⇄
dataclasses) · database (the store as the use cases see it).
"""
