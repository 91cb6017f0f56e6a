package diag

import "testing"

func TestFindingsAreSortedAndAreAnErrorOnlyWithErrors(t *testing.T) {
	fs := Findings{
		{Position: Position{"b.yaml", 1, 1}, Message: "second file", Severity: Warning},
		{Position: Position{"a.yaml", 9, 2}, Path: "containers.web", Message: `unknown key "restrat"`, Hint: `did you mean "restart"?`},
		{Position: Position{"a.yaml", 9, 1}, Message: "earlier column", Severity: Warning},
	}
	fs.Sort()
	want := `a.yaml:9:1: warning: earlier column
a.yaml:9:2: containers.web: unknown key "restrat"; did you mean "restart"?
b.yaml:1:1: warning: second file`
	if fs.Error() != want {
		t.Errorf("got\n%s", fs.Error())
	}
	if fs.Err() == nil || (Findings{{Severity: Warning}}).Err() != nil || Findings(nil).Err() != nil {
		t.Error("Err answers an error just when there is one")
	}
}
