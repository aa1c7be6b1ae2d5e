// SPDX-License-Identifier: MIT OR Apache-2.0

//! Is it a straight line?

/// Fits `a + b x + c x^2` to points, each weighed by its value so that the small
/// ones count too, and returns the share of the quadratic term at the largest x.
pub(crate) fn quadratic_share(points: &[(f64, f64)]) -> Option<f64> {
    let largest = points.iter().map(|point| point.0).fold(0.0, f64::max);
    if points.len() < 4 || largest <= 0.0 {
        return None;
    }
    let mut equations = [[0.0; 4]; 3];
    for &(x, y) in points {
        // With x scaled to 1, and the equation of this point divided by y.
        let x = x / largest;
        let terms = [1.0 / y, x / y, x * x / y];
        for (equation, a) in equations.iter_mut().zip(terms) {
            for (place, b) in equation.iter_mut().zip(terms.into_iter().chain([1.0])) {
                *place += a * b;
            }
        }
    }
    let [a, b, c] = solve(equations)?;
    Some(c / (a + b + c))
}

/// Gauss, with pivots.
fn solve(mut rows: [[f64; 4]; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot =
            (column..3).max_by(|&i, &j| rows[i][column].abs().total_cmp(&rows[j][column].abs()))?;
        rows.swap(column, pivot);
        let head = rows[column];
        if head[column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        for (number, row) in rows.iter_mut().enumerate() {
            if number != column {
                let factor = row[column] / head[column];
                for (place, value) in row.iter_mut().zip(head) {
                    *place -= factor * value;
                }
            }
        }
    }
    Some([0, 1, 2].map(|i| rows[i][3] / rows[i][i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [f64; 7] = [1.0, 8.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0];

    #[test]
    fn a_line_has_no_quadratic_term() {
        let line: Vec<_> = SIZES.iter().map(|&x| (x, 59e3 + 20e3 * x)).collect();
        assert!(quadratic_share(&line).unwrap().abs() < 1e-6);
    }

    #[test]
    fn half_of_it_is_quadratic() {
        let curve: Vec<_> = SIZES.iter().map(|&x| (x, 4096.0 * x + x * x)).collect();
        assert!((quadratic_share(&curve).unwrap() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn few_points_tell_nothing() {
        assert_eq!(quadratic_share(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), None);
    }
}
