package cert

import (
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Modes of what is written: keys for their owner alone, certificates for all.
const (
	keyMode  fs.FileMode = 0o600
	certMode fs.FileMode = 0o644
	dirMode  fs.FileMode = 0o700
)

// createFile writes a file that must not exist yet: whole under a temporary
// name, then linked into place, so that of two writers one wins and neither
// leaves half a file. The error is fs.ErrExist when path exists.
func createFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	err = os.Link(tmp, path)
	if err == nil || exists(path) {
		return err
	}
	return os.Rename(tmp, path) // a file system without hard links
}

// replaceFile writes path whole, in the place of what may be there.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := writeTemp(path, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

func writeTemp(path string, data []byte, mode fs.FileMode) (string, error) {
	// CreateTemp opens with 0600: a key is at no moment readable to others.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
