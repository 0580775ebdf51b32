"""Shop tables: customers.csv, orders.csv and products.csv, read as text, checked, cleaned and accounted for."""
