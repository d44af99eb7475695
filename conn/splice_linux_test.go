package conn

const asksSockets = true
